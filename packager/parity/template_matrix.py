"""The matrix of a chat template: engines by conversations, each cell equal, different with its cause, or not checked.

A difference gets a reason code only when the cause was tried and explains it: the reference renders the conversation as the
engine is suspected to have changed it, and builds what the engine built.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace

from packager.artifacts import Conversation, Message, Outcome
from packager.engines.engine import NotSupported
from packager.parity.matrix import CORE, Cell
from packager.parity.prompts import Rendered, compare_prompts
from packager.parity.tokens import Ids, compare_tokens

Render = Callable[[Conversation], Rendered]

COLLATE, SYS_MERGE, TRIM, CONTENT, BOS_DUP, BOS_LOST, EOS_ADDED, NFC, TOKENIZER, DIFFERS = (
    "COLLATE", "SYS_MERGE", "TRIM", "CONTENT", "BOS_DUP", "BOS_LOST", "EOS_ADDED", "NFC", "TOKENIZER", "DIFFERS"
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TemplateRow:
    """One engine: its cells in the order of the conversations; none, with the reason, when it was not asked."""

    engine: str
    version: str
    cells: tuple[Cell, ...] = ()
    not_checked: str = ""

    @property
    def differs(self) -> bool:
        """Whether a CORE conversation was compared and differs."""
        return any(cell.outcome is Outcome.FAILED and cell.group == CORE for cell in self.cells)


@dataclass(frozen=True, kw_only=True)
class TemplateMatrix:
    """What every engine makes of one template.

    Attributes:
        source: Where the template came from.
        original_sha256: Digest of the original's text.
        reference: What the engines are compared with, and its version.
        conversations: What was rendered.
        rows: The engines.
        rewritten: The rows of llama.cpp and Ollama are those of the form written anew: Ollama built other prompts from the
            template itself, or could not run it.
    """

    source: str
    original_sha256: str
    reference: str
    conversations: tuple[Conversation, ...]
    rows: tuple[TemplateRow, ...]
    rewritten: bool = False

    @property
    def equal(self) -> bool:
        """Whether a CORE conversation was compared and none differs on any engine."""
        outcomes = {cell.outcome for row in self.rows for cell in row.cells if cell.group == CORE}
        return Outcome.PASSED in outcomes and Outcome.FAILED not in outcomes

    @property
    def differing(self) -> tuple[str, ...]:
        """The engines on which a CORE conversation differs."""
        return tuple(row.engine for row in self.rows if row.differs)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What one side builds for every conversation; `counts` is what an engine says it evaluated, None where not asked."""

    prompts: tuple[Rendered, ...]
    ids: tuple[Ids, ...]
    counts: tuple[int | NotSupported, ...] | None = None


def template_cells(
    conversations: tuple[Conversation, ...],
    reference: Asked,
    engine: Asked,
    *,
    render: Render,
    piece: Callable[[int], str],
    stripped_bos: str = "",
) -> tuple[Cell, ...]:
    """Compare one engine with the reference by token ids, and by text where that says more.

    Args:
        conversations: What was rendered.
        reference: The reference's side.
        engine: The engine's side.
        render: The reference's rendering of a changed conversation, to find the cause of a difference.
        piece: Gives a token's text.
        stripped_bos: A BOS text that the engine takes off its prompt and adds again as a token.
    """
    by_ids = compare_tokens(conversations, reference.ids, engine.ids, piece=piece, counts=engine.counts)
    by_text = compare_prompts(conversations, reference.prompts, engine.prompts, stripped_bos=stripped_bos)
    cells = []
    for index, (ids, text) in enumerate(zip(by_ids, by_text, strict=True)):
        if ids.outcome is not Outcome.FAILED or ids.code:
            cells.append(ids)
            continue
        code = _cause(
            conversations[index],
            (reference.prompts[index], reference.ids[index]),
            (engine.prompts[index], engine.ids[index]),
            same_text=text.outcome is Outcome.PASSED,
            render=render,
            bos=stripped_bos,
        )
        detail = text.detail if text.outcome is Outcome.FAILED else ids.detail
        cells.append(replace(ids, code=code, detail=detail))
    return tuple(cells)


def _cause(
    conversation: Conversation,
    expected: tuple[Rendered, Ids],
    found: tuple[Rendered, Ids],
    *,
    same_text: bool,
    render: Render,
    bos: str,
) -> str:
    ends = _ends(expected[1], found[1])
    if ends:
        return ends
    if same_text:
        text = expected[0] if isinstance(expected[0], str) else ""
        return TOKENIZER if unicodedata.is_normalized("NFC", text) else NFC
    for code, changed in _suspects(conversation.messages):
        if changed != conversation.messages and _same(render(replace(conversation, messages=changed)), found[0], bos):
            return code
    if _same(_with_raw_contents(conversation, render), found[0], bos):
        stripped = _stripped(conversation.messages)
        blanks = stripped != conversation.messages
        return TRIM if blanks and render(replace(conversation, messages=stripped)) == expected[0] else CONTENT
    return DIFFERS


def _ends(expected: Ids, found: Ids) -> str:
    """Give what became of the first id or behind the last one, where nothing else differs; else an empty text."""
    if not (isinstance(expected, tuple) and isinstance(found, tuple)):
        return ""
    if found[1:] == expected:
        return BOS_DUP
    if expected[1:] == found:
        return BOS_LOST
    return EOS_ADDED if found[: len(expected)] == expected else ""


def _with_raw_contents(conversation: Conversation, render: Render) -> Rendered:
    """Give the prompt of a template that writes every content as it is, with this one's texts around them."""
    marks = [f"xq{place}mark{place}qx" for place in range(len(conversation.messages))]
    marked = tuple(replace(m, content=mark) for m, mark in zip(conversation.messages, marks, strict=True))
    prompt = render(replace(conversation, messages=marked))
    if isinstance(prompt, NotSupported):
        return prompt
    for mark, message in zip(marks, conversation.messages, strict=True):
        prompt = prompt.replace(mark, message.content)
    return prompt


def _same(one: Rendered, other: Rendered, bos: str) -> bool:
    """Whether two prompts are equal but for a BOS that one of them has as a token."""
    return isinstance(one, str) and isinstance(other, str) and one.removeprefix(bos) == other.removeprefix(bos)


def _suspects(messages: tuple[Message, ...]) -> tuple[tuple[str, tuple[Message, ...]], ...]:
    stripped = _stripped(messages)
    return (
        (COLLATE, _collated(messages)),
        (TRIM, stripped),
        (COLLATE, _collated(stripped)),
        (SYS_MERGE, _system_merged(messages, "\n")),
        (SYS_MERGE, _system_merged(messages, "\n\n")),
    )


def _stripped(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    return tuple(replace(message, content=message.content.strip()) for message in messages)


def _collated(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Join messages of one role in a row as Ollama does (`collate` of template/template.go)."""
    joined: list[Message] = []
    for message in messages:
        if joined and joined[-1].role == message.role:
            joined[-1] = replace(message, content=f"{joined[-1].content}\n\n{message.content}")
        else:
            joined.append(message)
    return tuple(joined)


def _system_merged(messages: tuple[Message, ...], joint: str) -> tuple[Message, ...]:
    """Put every system message in front of the next message, as llama.cpp does when a template drops it."""
    merged: list[Message] = []
    waiting: list[str] = []
    for message in messages:
        if message.role == "system":
            waiting.append(message.content)
        else:
            merged.append(replace(message, content=joint.join([*waiting, message.content])))
            waiting = []
    return tuple(merged)
