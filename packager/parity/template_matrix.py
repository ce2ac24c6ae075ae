"""The matrix of a chat template: engines by conversations, each cell equal, different with its cause, or not checked.

A difference gets a reason code only when the cause was tried and explains it: the reference renders the conversation as the
engine is suspected to have changed it, and builds what the engine built.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from packager.artifacts import Conversation, Outcome
from packager.engines.engine import NotSupported
from packager.evidence import Cell
from packager.parity.causes import Built, find_cause, without_calls, without_thinking
from packager.parity.matrix import CORE
from packager.parity.prompts import Rendered, compare_prompts
from packager.parity.tokens import Ids, compare_tokens

Render = Callable[[Conversation], Rendered]

IGNORED = "IGNORED"
_TOOLS, _THINK = "TOOLS", "THINK"  # the groups whose conversations have something that a template may leave out
_NOT_ASKED = NotSupported(code="NOT_ASKED", detail="only texts are compared")


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
        losses: What each engine that was asked loses of these conversations, in words.
    """

    source: str
    original_sha256: str
    reference: str
    conversations: tuple[Conversation, ...]
    rows: tuple[TemplateRow, ...]
    rewritten: bool = False
    losses: tuple[str, ...] = ()

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
    tokens: Callable[[Conversation], Ids] | None = None,
    stripped_bos: str = "",
) -> tuple[Cell, ...]:
    """Compare one engine with the reference by token ids, and by text where that says more.

    Args:
        conversations: What was rendered.
        reference: The reference's side.
        engine: The engine's side.
        render: The reference's rendering of a changed conversation, to find the cause of a difference.
        piece: Gives a token's text.
        tokens: The reference's token ids of a changed conversation, for an engine that shows no text.
        stripped_bos: A BOS text that the engine takes off its prompt and adds again as a token.
    """
    by_ids = compare_tokens(conversations, reference.ids, engine.ids, piece=piece, counts=engine.counts)
    by_text = compare_prompts(conversations, reference.prompts, engine.prompts, stripped_bos=stripped_bos)
    sides = zip(_built(reference), _built(engine), strict=True)
    cells = []
    for conversation, ids, text, (expected, found) in zip(conversations, by_ids, by_text, sides, strict=True):
        if ids.outcome is Outcome.PASSED:
            cells.append(_unless_ignored(ids, conversation, expected.prompt, render))
        elif ids.outcome is Outcome.FAILED and not ids.code:
            code = find_cause(
                conversation,
                expected,
                found,
                same_text=text.outcome is Outcome.PASSED,
                ask=lambda changed: Built(prompt=render(changed), ids=tokens(changed) if tokens else _NOT_ASKED),
                bos=stripped_bos,
            )
            cells.append(replace(ids, code=code, detail=text.detail if text.outcome is Outcome.FAILED else ids.detail))
        else:
            cells.append(ids)
    return tuple(cells)


def _built(asked: Asked) -> tuple[Built, ...]:
    return tuple(Built(prompt=prompt, ids=ids) for prompt, ids in zip(asked.prompts, asked.ids, strict=True))


def _unless_ignored(cell: Cell, conversation: Conversation, prompt: Rendered, render: Render) -> Cell:
    """Give a cell of equal prompts, as not checked where the template leaves out what the conversation is about."""
    if conversation.group not in (_TOOLS, _THINK):
        return cell
    what = ""
    if isinstance(prompt, NotSupported):
        what = f"the template refuses it ({prompt.detail})"
    elif conversation.group == _THINK:
        if render(without_thinking(conversation)) == prompt:
            what = "the template leaves out this reasoning"
    elif render(replace(conversation, tools=())) == prompt:
        what = "the template leaves out declared tools"
    elif without_calls(conversation) != conversation and render(without_calls(conversation)) == prompt:
        what = "the template leaves out calls of tools"
    return replace(cell, outcome=Outcome.NOT_CHECKED, code=IGNORED, detail=what) if what else cell
