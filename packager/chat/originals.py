"""Chat templates as their authors wrote them, by where they are: a file, a folder, a name, a trainer's configuration."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from packager.chat.pins import jinja_text
from packager.errors import InputInvalid, Unsupported
from packager.formats.tokenizer import TEMPLATE_FILE, TEMPLATE_LIMIT_BYTES, read_chat_template
from packager.named_templates import LIST_COMMAND, find_template, is_template_name, template_text
from packager.sources.trainer_config import TITLES, TrainerTemplate, is_trainer_config, read_trainer_file


@dataclass(frozen=True, kw_only=True)
class Original:
    """A template as its author wrote it.

    Attributes:
        source: Where it was found, in words a user knows.
        text: The Jinja text.
        choice: What `--template` takes to choose it, as a shell reads it.
        stops: Text of the tokens that its trainer stops at, where a trainer names it.
        notes: What was found on the way and stops nothing.
    """

    source: str
    text: str
    choice: str
    stops: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def named_original(typed: str) -> Original:
    """Give the template that a user names: a file's, else a folder's own, else one of the named templates.

    Args:
        typed: A template file, a trainer's configuration, a folder with a chat template, or a name of the index.

    Raises:
        InputInvalid: There is no such thing, or it cannot be read; the message has the names that are near.
        Unsupported: A trainer's configuration names a template that packager does not have.
    """
    path = Path(typed)
    if path.is_dir():
        text = read_chat_template(path)
        if text is None:
            raise InputInvalid(f"{path}: no chat template in it", hint="Pass another one: --template FILE|NAME.")
        return Original(source=f"the chat template in {path.name}", text=text, choice=shlex.quote(typed))
    if path.is_file() and is_trainer_config(path):
        return trainer_original(read_trainer_file(path))
    if path.is_file() or path.suffix == ".jinja" or "/" in typed:
        return Original(source=f"the file {path.name}", text=read_template(path), choice=shlex.quote(typed))
    return index_original(typed)


def index_original(name: str) -> Original:
    """Give a named template.

    Raises:
        InputInvalid: There is none of that name; the message has the names that are near.
    """
    found = find_template(name)
    return Original(
        source=f"the named template {name}", text=template_text(found), choice=shlex.quote(name), stops=found.stop
    )


def folder_original(source: str, folder: Path, text: str | None) -> Original | None:
    """Give the template that was read from a folder, None when it has none."""
    if text is None:
        return None
    file = folder / TEMPLATE_FILE
    return Original(source=source, text=text, choice=shlex.quote(str(file if file.is_file() else folder)))


def trainer_original(config: TrainerTemplate) -> Original:
    """Give the template that a trainer's configuration names, with what it changes in it.

    The changes are `set` statements in front of the named template: LLaMA-Factory's default system message, thinking that was
    switched off.

    Raises:
        Unsupported: The trainer has more templates than packager, and this is one of them.
    """
    trainer = TITLES[config.trainer]
    name = f"{config.trainer}:{config.name}"
    if not is_template_name(name):
        raise Unsupported(
            f"{config.file}: {trainer} trained with its template {config.name}, which is none of the named ones",
            hint=f"Pass it as Jinja, or one that builds the same prompts: --template FILE|NAME ({LIST_COMMAND}).",
        )
    found = find_template(name)
    text = template_text(found)
    changed = [(key, value) for key, value in config.settings if key in text]
    own = f" with its own {' and '.join(key for key, _ in changed)}" if changed else ""
    return Original(
        source=f"{trainer}'s template {config.name}{own} ({config.file.name})",
        text="".join(f"{{%- set {key} = {_literal(value)} -%}}\n" for key, value in changed) + text,
        choice=shlex.quote(str(config.file) if changed else name),
        stops=found.stop,
    )


def read_template(path: Path) -> str:
    """Give the text of a template file.

    Raises:
        InputInvalid: It cannot be read, is too large, empty, or not UTF-8.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputInvalid(f"{path}: cannot be read ({error.strerror})", hint="Check --template.") from error
    if len(data) > TEMPLATE_LIMIT_BYTES:
        raise InputInvalid(f"{path}: {len(data)} bytes, a chat template has at most {TEMPLATE_LIMIT_BYTES}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputInvalid(f"{path}: not UTF-8 (byte {error.start})", hint="Save the template as UTF-8.") from error
    if not text.strip():
        raise InputInvalid(f"{path}: empty", hint="Pass a Jinja chat template.")
    return text


def _literal(value: str | bool) -> str:
    return jinja_text(value) if isinstance(value, str) else str(value).lower()
