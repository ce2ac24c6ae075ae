"""One cell for each probe conversation, and the line of a verdict that a row of cells amounts to.

CORE conversations must be equal. EXT ones are odd on purpose (two users in a row, a system message in the middle): their
differences are told, and do not fail a build, because no trainer's data looks like that.
"""

from __future__ import annotations

from packager.artifacts import Check, Conversation, Measure, Outcome
from packager.engines.engine import NotSupported
from packager.evidence import Cell

CORE = "CORE"
# What an engine says of the template rather than of itself: the model would fail the same way when it is used.
_FAULTS = frozenset({"TEMPLATE_ERROR", "NO_TEMPLATE", "NO_TOOLS", "REFUSED"})


def cell(conversation: Conversation, difference: str) -> Cell:
    """Give the cell of a comparison that was made: passed when `difference` is empty."""
    outcome = Outcome.FAILED if difference else Outcome.PASSED
    return Cell(conversation=conversation.id, group=conversation.group, outcome=outcome, detail=difference)


def unanswered(conversation: Conversation, reference: object, engine: object) -> Cell:
    """Give the cell of a conversation that at least one side did not answer.

    A conversation that the reference refuses has nothing to be equal to: when the engine refuses it too they agree, else
    it is not checked. An engine that trips over the template has failed; one that lacks the question is not checked.
    """
    outcome, detail, code = Outcome.PASSED, "", ""
    if isinstance(engine, NotSupported) and not isinstance(reference, NotSupported):
        outcome = Outcome.FAILED if engine.code in _FAULTS else Outcome.NOT_CHECKED
        detail, code = f"{engine.code}: {engine.detail}", engine.code
    elif isinstance(reference, NotSupported) and not isinstance(engine, NotSupported):
        outcome, detail = Outcome.NOT_CHECKED, f"the reference refuses it ({reference.detail})"
    return Cell(conversation=conversation.id, group=conversation.group, outcome=outcome, detail=detail, code=code)


def row_check(cells: tuple[Cell, ...], *, subject: str, engine: str, name: str) -> Check:
    """Make one line of a verdict from the cells of all conversations.

    Returns:
        Failed when a CORE conversation differs; passed when every CORE conversation that was checked is equal and one was;
        else not checked. The figures count equal conversations, of all that were checked, for each group.
    """
    core = [cell for cell in cells if cell.group == CORE]
    rest = [cell for cell in cells if cell.group != CORE]
    measures = tuple(_share(label, group) for label, group in (("CORE equal", core), ("EXT equal", rest)) if group)
    failed = [cell for cell in core if cell.outcome is Outcome.FAILED]
    skipped = [cell for cell in cells if cell.outcome is Outcome.NOT_CHECKED]
    if failed:
        outcome, detail = Outcome.FAILED, f"{_counts(core, rest)}; {_named(failed[0])}"
    elif any(cell.outcome is Outcome.PASSED for cell in core):
        outcome, detail = Outcome.PASSED, _counts(core, rest)
        odd = [cell for cell in rest if cell.outcome is Outcome.FAILED]
        detail += "".join(f"; {_named(cell)}" for cell in odd[:2])
    else:
        outcome, detail = Outcome.NOT_CHECKED, skipped[0].detail if skipped else "there are no conversations"
        skipped = []
    if skipped:
        detail += f"; not checked: {_named(skipped[0])}"
    return Check(subject=subject, engine=engine, name=name, outcome=outcome, detail=detail, measures=measures)


def _share(label: str, cells: list[Cell]) -> Measure:
    limit = float(len(_made(cells))) if label.startswith(CORE) else None
    return Measure(name=label, value=float(_equal(cells)), unit="conversations", limit=limit, at_least=True)


def _counts(core: list[Cell], rest: list[Cell]) -> str:
    text = f"{_equal(core)} of {len(_made(core))} equal"
    return text + (f", odd ones {_equal(rest)} of {len(_made(rest))}" if rest else "")


def _made(cells: list[Cell]) -> list[Cell]:
    return [cell for cell in cells if cell.outcome is not Outcome.NOT_CHECKED]


def _equal(cells: list[Cell]) -> int:
    return sum(cell.outcome is Outcome.PASSED for cell in cells)


def _named(cell: Cell) -> str:
    return f"{cell.conversation}: {cell.detail}"
