"""The named training templates: `chat_templates/index.toml` as values, and the search for a name.

A name is one of the index's own (`chatml`), or a trainer's name for it, with the trainer or without: `llamafactory:yi`, `yi`.

Worked example:
    >>> find_template("llamafactory:qwen3_nothink").name
    'chatml'
"""

from __future__ import annotations

import difflib
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from packager import codec
from packager.catalog import table
from packager.errors import InputInvalid
from packager.formats.json_file import read_text

TRAINERS = ("llamafactory", "xtuner")
LIST_COMMAND = "packager template list"
_NAME = re.compile(r"[a-z0-9][a-z0-9_.]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NEAR, _NEARNESS = 4, 0.5
_AGAIN = "Install ollama-packager again."


@dataclass(frozen=True, kw_only=True)
class NamedTemplate:
    """One template of the index.

    Attributes:
        name: The index's own name, and the stem of its file.
        title: What it is, for people.
        source: The trainer and version, or the publication, that defines it.
        llamafactory: LLaMA-Factory's names for it, the first one the best known.
        xtuner: XTuner's names for it, likewise.
        stop: Text of the tokens that end an answer; a tokenizer that lacks one does not fit the template.
        sha256: Digest of the file.
        file: The Jinja text, see `template_text`.
    """

    name: str
    title: str
    source: str
    llamafactory: tuple[str, ...]
    xtuner: tuple[str, ...]
    stop: tuple[str, ...]
    sha256: str
    file: Path

    @property
    def aliases(self) -> tuple[str, ...]:
        """Every name with its trainer, `llamafactory:yi`."""
        return tuple(f"{trainer}:{alias}" for trainer in TRAINERS for alias in getattr(self, trainer))


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A table of the index as it is written; `source` stands only where no trainer defines the template."""

    title: str
    sha256: str
    source: str = ""
    llamafactory: tuple[str, ...] = ()
    xtuner: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Versions:
    """The trainers whose names the index has, with the version that was looked at."""

    llamafactory: str
    xtuner: str


def named_templates() -> tuple[NamedTemplate, ...]:
    """Give the templates of `chat_templates/index.toml` in their written order.

    Raises:
        InputInvalid: The installation is incomplete, or its index damaged.
    """
    return parse_index(table("chat_templates") / "index.toml")


def parse_index(path: Path) -> tuple[NamedTemplate, ...]:
    """Give the templates of an index file.

    Raises:
        InputInvalid: Not TOML, a field is missing or unknown, a file is missing, or an alias appears twice.
    """
    try:
        data = tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise InputInvalid(f"{path}: not TOML ({error})", hint=_AGAIN) from error
    tables = data.get("templates")
    if set(data) != {"trainers", "templates"} or not isinstance(tables, dict):
        raise InputInvalid(f"{path}: expected the tables 'trainers' and 'templates'", hint=_AGAIN)
    versions = codec.decode(_Versions, data["trainers"], where=f"{path}: trainers")
    found = tuple(_template(path, name, value, versions) for name, value in tables.items())
    _refuse_repeated(path, found)
    return found


def find_template(name: str, templates: tuple[NamedTemplate, ...] | None = None) -> NamedTemplate:
    """Give the template of a name, of `templates` or of the installation's index.

    Raises:
        InputInvalid: There is none, or several; the message has the names that are near.
    """
    templates = named_templates() if templates is None else templates
    found = _matches(name, templates)
    if len(found) == 1:
        return found[0]
    if found:
        choices = [alias for template in found for alias in template.aliases if alias.partition(":")[2] == name]
        raise InputInvalid(f"the template name {name} is two trainers': {', '.join(choices)}", hint="Use one of these.")
    near = difflib.get_close_matches(name, _all_names(templates), n=_NEAR, cutoff=_NEARNESS)
    raise InputInvalid(
        f"{name}: no such file, and no named template" + (f"; near: {', '.join(near)}" if near else ""),
        hint=f"Names: {LIST_COMMAND}",
    )


def is_template_name(name: str) -> bool:
    """Say whether the index has a name, a trainer's names with the trainer or without."""
    return bool(_matches(name, named_templates()))


def has_trainer(name: str) -> bool:
    """Say whether a name begins with a trainer, as `llamafactory:yi` does, and so can be nothing but a named template."""
    return name.startswith(tuple(f"{trainer}:" for trainer in TRAINERS))


def template_text(template: NamedTemplate) -> str:
    """Give the Jinja text of a template.

    Raises:
        InputInvalid: The installation does not have it.
    """
    return read_text(template.file)


def _template(path: Path, name: str, value: object, versions: _Versions) -> NamedTemplate:
    where = f"{path}: {name}"
    if not _NAME.fullmatch(name):
        raise InputInvalid(f"{path}: {name!r} is no name; use lower-case letters, digits, '_' and '.'", hint=_AGAIN)
    entry = codec.decode(_Entry, value, where=where)
    trainers = [getattr(versions, trainer) for trainer in TRAINERS if getattr(entry, trainer)]
    if bool(trainers) == bool(entry.source):
        raise InputInvalid(f"{where}: expected a trainer's names or a source, and not both", hint=_AGAIN)
    if not _SHA256.fullmatch(entry.sha256):
        raise InputInvalid(f"{where}: sha256 is {entry.sha256!r}, expected 64 hex digits", hint=_AGAIN)
    file = path.parent / f"{name}.jinja"
    if not file.is_file():
        raise InputInvalid(f"{where}: {file} is missing", hint=_AGAIN)
    return NamedTemplate(
        name=name,
        title=entry.title,
        source=entry.source or " and ".join(trainers),
        llamafactory=entry.llamafactory,
        xtuner=entry.xtuner,
        stop=entry.stop,
        sha256=entry.sha256,
        file=file,
    )


def _refuse_repeated(path: Path, templates: tuple[NamedTemplate, ...]) -> None:
    seen: dict[str, str] = {}
    for template in templates:
        for alias in template.aliases:
            if alias in seen:
                raise InputInvalid(f"{path}: {alias} is in {seen[alias]} and in {template.name}", hint=_AGAIN)
            seen[alias] = template.name


def _matches(name: str, templates: tuple[NamedTemplate, ...]) -> tuple[NamedTemplate, ...]:
    """Give the templates of a name: the index's own name, else those of trainers, which may be two."""
    own = tuple(template for template in templates if template.name == name)
    wanted = {name} if has_trainer(name) else {f"{trainer}:{name}" for trainer in TRAINERS}
    return own or tuple(template for template in templates if wanted & set(template.aliases))


def _all_names(templates: tuple[NamedTemplate, ...]) -> list[str]:
    names = [template.name for template in templates] + [alias for template in templates for alias in template.aliases]
    return list(dict.fromkeys([*names, *(name.partition(":")[2] for name in names if ":" in name)]))
