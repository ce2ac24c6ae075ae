"""Which chat template a model was trained with, when the files name more than one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from packager.artifacts import Adapter, Checkpoint, Conversation
from packager.chat.pins import FIXED_DAY, renders
from packager.chat.render import Renderer, RenderRefused, Setting
from packager.errors import InputInvalid, Unsupported
from packager.formats.tokenizer import TokenizerFacts

TEMPLATE_LIMIT_BYTES = 4 << 20
_SHOWN_CHARACTERS = 60


@dataclass(frozen=True, kw_only=True)
class Original:
    """A template as its author wrote it, and where it was found, in words a user knows."""

    source: str
    text: str


def choose_original(
    base: Checkpoint,
    adapter: Adapter | None,
    template_file: Path | None,
    tokens: TokenizerFacts,
    probes: tuple[Conversation, ...],
) -> Original:
    """Give the template the model was trained with.

    The file that the user names decides. Otherwise the adapter folder's template, if it builds the base's prompts or the
    base has none; otherwise the base's.

    Raises:
        InputInvalid: The adapter's and the base's template build different prompts, or the file cannot be read.
        UnsafeInput: One of two templates to compare does not end.
        Unsupported: There is no template anywhere.
    """
    if template_file is not None:
        return Original(source=f"the file {template_file.name}", text=read_template(template_file))
    saved = adapter.chat_template if adapter is not None else None
    of_adapter = None if saved is None else Original(source="the adapter's chat template", text=saved)
    of_base = (
        None if base.chat_template is None else Original(source="the base's chat template", text=base.chat_template)
    )
    if of_adapter is not None and of_base is not None and of_adapter.text != of_base.text:
        _require_same_prompts(of_adapter, of_base, tokens, probes)
    chosen = of_adapter or of_base
    if chosen is None:
        where = f"{base.folder}" if adapter is None else f"{adapter.folder} and {base.folder}"
        raise Unsupported(
            f"{where}: no chat template (chat_template.jinja, or chat_template in tokenizer_config.json)",
            hint="Pass the one the model was trained with: --template FILE.",
        )
    return chosen


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


def _require_same_prompts(
    one: Original, other: Original, tokens: TokenizerFacts, probes: tuple[Conversation, ...]
) -> None:
    same_day = Setting(now=FIXED_DAY)
    with Renderer(one.source, tokens) as renderer:
        first = renders(renderer, one.text, probes, same_day)
    with Renderer(other.source, tokens) as renderer:
        second = renders(renderer, other.text, probes, same_day)
    for probe, left, right in zip(probes, first, second, strict=True):
        if isinstance(left, RenderRefused) and isinstance(right, RenderRefused):
            continue
        if left != right:
            raise InputInvalid(
                f"{one.source} and {other.source} build different prompts: conversation {probe.id}, "
                + _first_difference(left, right),
                hint="Say which one the model was trained with: --template FILE.",
            )


def _first_difference(left: str | RenderRefused, right: str | RenderRefused) -> str:
    if isinstance(left, RenderRefused):
        return f"which the first refuses ({left.message})"
    if isinstance(right, RenderRefused):
        return f"which the second refuses ({right.message})"
    position = next(
        (i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right))
    )
    start = max(0, position - _SHOWN_CHARACTERS // 4)
    end = start + _SHOWN_CHARACTERS
    return f"character {position}: {left[start:end]!r} against {right[start:end]!r}"
