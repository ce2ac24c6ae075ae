from __future__ import annotations

import pytest

from packager.artifacts import Conversation, Message, Outcome
from packager.engines.engine import NotSupported
from packager.evidence import Cell
from packager.parity.tokens import Ids, compare_tokens

HELLO = Conversation(id="hello", group="CORE", messages=(Message(role="user", content="Hi"),))
UNCOUNTED = NotSupported(code="NO_PROMPT_COUNT", detail="too old")


def compare(reference: Ids, engine: Ids, counts: tuple[int | NotSupported, ...] | None = None) -> Cell:
    (found,) = compare_tokens((HELLO,), (reference,), (engine,), piece=lambda token: f"<{token}>", counts=counts)
    return found


@pytest.mark.parametrize(
    ("engine", "counts", "outcome", "detail"),
    [
        pytest.param((1, 5, 6), None, Outcome.PASSED, "", id="equal, not counted"),
        pytest.param((1, 5, 6), (3,), Outcome.PASSED, "", id="equal and counted"),
        pytest.param((1, 5, 6), (2,), Outcome.FAILED, "reference 3 tokens, engine evaluated 2", id="a lost BOS"),
        pytest.param((1, 5, 6), (4,), Outcome.FAILED, "reference 3 tokens, engine evaluated 4", id="a doubled BOS"),
        pytest.param((5, 6), (2,), Outcome.FAILED, "token 0: reference 1 '<1>', engine 5 '<5>'", id="other ids"),
        pytest.param((1, 5, 6), (UNCOUNTED,), Outcome.NOT_CHECKED, "NO_PROMPT_COUNT: too old", id="not countable"),
        pytest.param((1, 5, 7), (UNCOUNTED,), Outcome.FAILED, "token 2: reference 6 '<6>', engine 7 '<7>'", id="both"),
    ],
)
def test_ids_and_counts(
    engine: tuple[int, ...], counts: tuple[int | NotSupported, ...] | None, outcome: Outcome, detail: str
) -> None:
    found = compare((1, 5, 6), engine, counts)
    assert (found.outcome, found.detail) == (outcome, detail)


def test_an_engine_without_ids_is_not_checked() -> None:
    found = compare((1,), NotSupported(code="NO_TOKENIZER", detail="no such API"), (1,))
    assert found.outcome is Outcome.NOT_CHECKED


def test_both_sides_refusing_agree() -> None:
    refused = NotSupported(code="TEMPLATE_ERROR", detail="roles must alternate")
    assert compare(refused, refused).outcome is Outcome.PASSED
