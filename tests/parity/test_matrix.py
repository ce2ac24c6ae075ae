from __future__ import annotations

import pytest

from packager.artifacts import Check, Conversation, Message, Outcome
from packager.engines.engine import NotSupported
from packager.evidence import Cell
from packager.parity.matrix import cell, row_check, unanswered

REFUSED = NotSupported(code="TEMPLATE_ERROR", detail="no system message here")
SILENT = NotSupported(code="NO_DEBUG_RENDER", detail="too old")


def probe(name: str, group: str = "CORE") -> Conversation:
    return Conversation(id=name, group=group, messages=(Message(role="user", content="Hi"),))


def check(*cells: Cell) -> Check:
    return row_check(cells, subject="f16", engine="ollama", name="prompts")


def test_a_comparison_without_a_difference_passes() -> None:
    assert cell(probe("a"), "").outcome is Outcome.PASSED
    assert cell(probe("a"), "character 0: ...").outcome is Outcome.FAILED


@pytest.mark.parametrize(
    ("reference", "engine", "outcome"),
    [
        pytest.param(REFUSED, REFUSED, Outcome.PASSED, id="both refuse"),
        pytest.param("text", REFUSED, Outcome.FAILED, id="only the engine refuses"),
        pytest.param(REFUSED, "text", Outcome.NOT_CHECKED, id="only the reference refuses"),
        pytest.param("text", SILENT, Outcome.NOT_CHECKED, id="the engine has no such question"),
        pytest.param(
            "text", NotSupported(code="NO_TEMPLATE", detail="none"), Outcome.FAILED, id="there is no template to render"
        ),
    ],
)
def test_a_side_that_did_not_answer(reference: object, engine: object, outcome: Outcome) -> None:
    assert unanswered(probe("a"), reference, engine).outcome is outcome


def test_all_core_conversations_equal_is_a_pass_with_its_count() -> None:
    found = check(cell(probe("a"), ""), cell(probe("b"), ""), cell(probe("odd", "EXT"), ""))
    assert (found.outcome, found.detail) == (Outcome.PASSED, "2 of 2 equal, odd ones 1 of 1")
    assert [(m.name, m.value, m.limit, m.at_least) for m in found.measures] == [
        ("CORE equal", 2.0, 2.0, True),
        ("EXT equal", 1.0, None, True),
    ]


def test_one_core_difference_fails_and_is_named() -> None:
    found = check(cell(probe("a"), ""), cell(probe("b"), "character 3: x"), cell(probe("c"), "character 9: y"))
    assert found.outcome is Outcome.FAILED
    assert found.detail == "1 of 3 equal; b: character 3: x"


def test_an_odd_conversation_may_differ_and_is_told() -> None:
    found = check(cell(probe("a"), ""), cell(probe("two-users", "EXT"), "character 3: x"))
    assert found.outcome is Outcome.PASSED
    assert found.detail == "1 of 1 equal, odd ones 0 of 1; two-users: character 3: x"


def test_what_was_not_checked_is_never_passed() -> None:
    found = check(unanswered(probe("a"), "text", SILENT), unanswered(probe("b"), "text", SILENT))
    assert (found.outcome, found.detail) == (Outcome.NOT_CHECKED, "NO_DEBUG_RENDER: too old")
    assert check().outcome is Outcome.NOT_CHECKED


def test_what_was_not_checked_is_told_beside_what_was() -> None:
    found = check(cell(probe("a"), ""), unanswered(probe("b"), REFUSED, "text"))
    assert found.outcome is Outcome.PASSED
    assert found.detail == "1 of 1 equal; not checked: b: the reference refuses it (no system message here)"


def test_odd_conversations_alone_are_no_proof() -> None:
    assert check(cell(probe("odd", "EXT"), "")).outcome is Outcome.NOT_CHECKED
