"""A template's matrix, its summary and the difference of two templates, as rich shows them."""

from __future__ import annotations

from collections.abc import Iterator

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from packager.artifacts import Outcome
from packager.chat.prompt_diff import prompt_diff
from packager.evidence import Cell
from packager.parity.template_matrix import IGNORED, TemplateMatrix, TemplateRow
from packager.template_proofs import PromptPair, ShownTemplate, TemplateDifference

_MARKS = {Outcome.PASSED: "[green]equal[/]", Outcome.FAILED: "[red]differs[/]", Outcome.NOT_CHECKED: "[yellow]?[/]"}
_CONTEXT_LINES = 1
_WALKS = "WALK"


def matrix_table(matrix: TemplateMatrix) -> Table:
    """Give a row for each conversation and a column for each engine; random conversations share one row."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("conversation", "group", *(row.engine for row in matrix.rows)):
        table.add_column(title, no_wrap=True)
    for index, conversation in enumerate(matrix.conversations):
        if conversation.group != _WALKS:
            marks = [_mark(row.cells[index]) if row.cells else _MARKS[Outcome.NOT_CHECKED] for row in matrix.rows]
            table.add_row(escape(conversation.id), conversation.group, *marks)
    walks = sum(conversation.group == _WALKS for conversation in matrix.conversations)
    if walks:
        table.add_row(f"{walks} random", _WALKS, *(_walked(row) for row in matrix.rows))
    return table


def matrix_notes(matrix: TemplateMatrix) -> Iterator[str]:
    """Give what the table has no room for: every reason, once for each engine and code, with its first conversation."""
    if matrix.rewritten:
        yield "ollama: does not build these prompts from the template itself; proved is the form written anew, without tools"
    for row in matrix.rows:
        if row.not_checked:
            yield f"{row.engine}: not checked: {row.not_checked}"
        seen: set[str] = set()
        for cell in row.cells:
            if cell.outcome is not Outcome.PASSED and cell.code not in {*seen, IGNORED}:
                seen.add(cell.code)
                yield f"{row.engine}, {cell.conversation}: {cell.detail}"


def matrix_sentence(matrix: TemplateMatrix) -> str:
    """Give the matrix in one line of markup; engines that were not asked are named in it."""
    asked = [row for row in matrix.rows if not row.not_checked]
    missing = [row.engine for row in matrix.rows if row.not_checked]
    tail = f"; not checked: {', '.join(missing)}" if missing else ""
    if matrix.differing:
        return f"[bold red]CORE conversations differ on {', '.join(matrix.differing)}[/]{tail}"
    if not matrix.equal:
        return f"[bold yellow]not checked[/]{tail}"
    return f"[bold green]every CORE conversation is equal[/] on {', '.join(row.engine for row in asked)}{tail}"


def shown_rows(shown: ShownTemplate) -> tuple[tuple[str, str], ...]:
    """Give the summary of a template as labels and texts."""
    rows = [
        ("template", shown.source),
        ("sha256", f"{shown.sha256}, {len(shown.text)} characters"),
        ("stops", " ".join(shown.stops) or "none"),
        ("BOS", "every prompt starts with it" if shown.leading_bos else "not in the prompts"),
    ]
    rows += [("fixed", f"{pin.name} = {pin.value}: {pin.reason}") for pin in shown.pins]
    return (*rows, *(("note", note) for note in shown.notes))


def difference_text(found: TemplateDifference) -> Iterator[Text]:
    """Give the first prompt that differs as a diff, one line at a time, then the names of the others."""
    if not found.different:
        yield Text(f"equal on {found.conversations} conversations: {found.one}, {found.other}", style="green")
        return
    first = found.different[0]
    yield Text(f"--- {found.one}, conversation {first.conversation}", style="bold")
    yield Text(f"+++ {found.other}", style="bold")
    yield from _prompt_lines(first)
    yield Text(first.text)
    if first.ids:
        yield Text(first.ids)
    names = ", ".join(pair.conversation for pair in found.different)
    yield Text(f"{len(found.different)} of {found.conversations} conversations differ: {names}", style="bold red")


def _prompt_lines(pair: PromptPair) -> Iterator[Text]:
    if pair.one is None or pair.other is None:
        return
    styles = {"+": "green", "-": "red", "@": "cyan"}
    for line in prompt_diff(pair.one, pair.other, context_lines=_CONTEXT_LINES):
        yield Text(line, style=styles.get(line[0], ""))


def _mark(cell: Cell) -> str:
    if cell.outcome is Outcome.FAILED:
        return f"[red]{escape(cell.code or 'differs')}[/]"
    return _MARKS[cell.outcome] + (f" {escape(cell.code)}" if cell.code and cell.outcome is Outcome.NOT_CHECKED else "")


def _walked(row: TemplateRow) -> str:
    cells = [cell for cell in row.cells if cell.group == _WALKS]
    if not cells:
        return _MARKS[Outcome.NOT_CHECKED]
    equal = sum(cell.outcome is Outcome.PASSED for cell in cells)
    return f"[green]{equal} equal[/]" if equal == len(cells) else f"[red]{equal} equal[/]"
