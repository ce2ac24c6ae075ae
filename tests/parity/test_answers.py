from __future__ import annotations

import numpy as np
import pytest

from packager.parity.answers import AnswerMatch, compare_answer

# Three positions over four tokens; the reference's margins are log(0.7/0.1), log(0.5/0.45) and log(0.97/0.01).
ROWS = np.log(np.array([[0.7, 0.1, 0.1, 0.1], [0.025, 0.5, 0.45, 0.025], [0.01, 0.01, 0.01, 0.97]], dtype=np.float32))


def compare(text: str, ids: tuple[int, ...]) -> AnswerMatch:
    return compare_answer(
        "hello", reference_text="I am", reference_ids=(0, 1, 3), reference_logprobs=ROWS, text=text, ids=ids
    )


def test_equal_texts_share_everything() -> None:
    found = compare("I am", (0, 1))
    assert found.equal
    assert (found.common_tokens, found.reference_tokens, found.margin_nats, found.detail) == (3, 3, 0.0, "")


@pytest.mark.parametrize(
    ("text", "ids", "shared", "margin"),
    [
        pytest.param("You are", (2, 2), 0, np.log(0.7 / 0.1), id="at once, where the reference was sure"),
        pytest.param("I was", (0, 2), 1, np.log(0.5 / 0.45), id="at a near-tie"),
        pytest.param("I am not", (0, 1, 2), 2, np.log(0.97 / 0.01), id="it goes on where the reference ended"),
        pytest.param("I", (0,), 1, np.log(0.5 / 0.45), id="it ends where the reference goes on"),
        pytest.param("", (), 0, np.log(0.7 / 0.1), id="it says nothing"),
    ],
)
def test_where_answers_part(text: str, ids: tuple[int, ...], shared: int, margin: float) -> None:
    found = compare(text, ids)
    assert not found.equal
    assert found.common_tokens == shared
    assert found.margin_nats == pytest.approx(margin, abs=1e-5)


def test_both_texts_are_shown_from_where_they_part() -> None:
    assert compare("I was", (0, 2)).detail == "reference …'am', engine …'was'"


def test_other_ids_for_the_same_text_are_equal() -> None:
    assert compare("I am", (7, 7, 7)).equal


@pytest.mark.parametrize(
    ("reference", "text"),
    [("\ufffd剎包。", "剎包。"), ("剎包。", "剎包。\ufffd"), ("a\ufffd\ufffdb", "a\ufffdb")],
    ids=["left out by the engine", "left out by the reference", "one for each byte or for all"],
)
def test_bytes_that_are_no_character_count_for_nothing(reference: str, text: str) -> None:
    found = compare_answer(
        "hello", reference_text=reference, reference_ids=(0, 1, 3), reference_logprobs=ROWS, text=text, ids=(2,)
    )
    assert found.equal
    assert found.margin_nats == 0
