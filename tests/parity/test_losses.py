"""What each engine loses, in lines that people read."""

from __future__ import annotations

from packager.artifacts import Outcome
from packager.evidence import Cell
from packager.parity.losses import stated_losses
from packager.parity.template_matrix import TemplateRow


def cell(name: str, code: str = "", outcome: Outcome = Outcome.FAILED, detail: str = "") -> Cell:
    return Cell(conversation=name, group="TOOLS", outcome=outcome if code else Outcome.PASSED, code=code, detail=detail)


def row(engine: str, *cells: Cell) -> TemplateRow:
    return TemplateRow(engine=engine, version="1", cells=cells)


def test_each_loss_is_one_line_and_two_causes_at_once_are_two() -> None:
    assert stated_losses(
        (
            row("a", cell("x", "THINKING+TOOLJSON"), cell("y", "TOOLJSON"), cell("z")),
            row("b", cell("x"), cell("y"), cell("z")),
            row("c", cell("x", "NO_TOOLS"), cell("y", "DIFFERS")),
            TemplateRow(engine="d", version="", not_checked="absent"),
        )
    ) == (
        "a: reasoning of earlier answers is dropped (THINKING): x",
        "a: declared tools are written as other JSON (TOOLJSON): x, y",
        "c: no tools (NO_TOOLS): x",
        "c: the prompt differs (DIFFERS): y",
    )


def test_what_the_template_leaves_out_is_said_once() -> None:
    ignored = [cell(name, "IGNORED", Outcome.NOT_CHECKED, "the template leaves out it") for name in ("x", "y")]
    assert stated_losses((row("a", *ignored), row("b", *ignored))) == (
        "the template leaves out it, so nothing is compared: x, y",
    )


def test_what_could_not_be_asked_is_no_loss() -> None:
    assert stated_losses((row("a", cell("x", "NO_DEBUG_RENDER", Outcome.NOT_CHECKED)),)) == ()
