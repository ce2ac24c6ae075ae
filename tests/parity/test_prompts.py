from __future__ import annotations

import pytest

from packager.artifacts import Conversation, Message, Outcome
from packager.engines.engine import NotSupported
from packager.evidence import Cell
from packager.parity.prompts import Rendered, compare_prompts

HELLO = Conversation(id="hello", group="CORE", messages=(Message(role="user", content="Hi"),))


def compare(reference: Rendered, engine: Rendered, stripped_bos: str = "") -> Cell:
    (found,) = compare_prompts((HELLO,), (reference,), (engine,), stripped_bos=stripped_bos)
    return found


@pytest.mark.parametrize(
    ("reference", "engine", "bos", "outcome"),
    [
        pytest.param("<s>Hi", "<s>Hi", "", Outcome.PASSED, id="equal"),
        pytest.param("<s>Hi", "<s>Hi ", "", Outcome.FAILED, id="a trailing blank"),
        pytest.param("\u00e9", "e\u0301", "", Outcome.FAILED, id="equal to the eye, decomposed"),
        pytest.param("<s>Hi", "Hi", "", Outcome.FAILED, id="BOS lost"),
        pytest.param("<s>Hi", "Hi", "<s>", Outcome.PASSED, id="BOS stripped by an engine that adds it again"),
        pytest.param("<s>Hi", "<s>Hi", "<s>", Outcome.PASSED, id="BOS kept by an engine that might strip it"),
        pytest.param("Hi", "<s>Hi", "<s>", Outcome.FAILED, id="BOS invented"),
        pytest.param("<s><s>Hi", "Hi", "<s>", Outcome.FAILED, id="only one BOS is stripped"),
    ],
)
def test_prompts_are_compared_byte_for_byte(reference: str, engine: str, bos: str, outcome: Outcome) -> None:
    assert compare(reference, engine, bos).outcome is outcome


def test_a_difference_is_located() -> None:
    assert compare("<s>Hi", "<s>Ho").detail == "character 4: reference '<s>Hi', engine '<s>Ho'"


def test_a_template_that_the_engine_cannot_run_is_a_difference() -> None:
    found = compare("Hi", NotSupported(code="TEMPLATE_ERROR", detail="unknown filter"))
    assert (found.outcome, found.detail) == (Outcome.FAILED, "TEMPLATE_ERROR: unknown filter")


def test_every_conversation_needs_both_sides() -> None:
    with pytest.raises(ValueError, match="shorter"):
        compare_prompts((HELLO,), ("Hi",), ())
