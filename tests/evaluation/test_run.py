from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packager.evaluation.run import answer_text


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        pytest.param("4", "4", id="no reasoning"),
        pytest.param(" 4\n", " 4\n", id="blanks of an answer are its own"),
        pytest.param("<think>2 + 2</think>\n\n4\n", "4\n", id="reasoning"),
        pytest.param("\n<think>\n\n</think>\n\n4", "4", id="empty reasoning"),
        pytest.param("2 + 2</think>4", "4", id="begun in the prompt"),
        pytest.param("<think>2 + 2 and so", "", id="cut off while thinking"),
        pytest.param("It writes <think> first.", "It writes <think> first.", id="a word in the answer"),
        pytest.param("a\ud83d", "a?", id="half a character"),
    ],
)
def test_an_answer_is_what_follows_the_reasoning(text: str, answer: str) -> None:
    assert answer_text(text) == answer


@given(st.text().filter(lambda text: "think>" not in text))
def test_every_other_text_is_its_own_answer(text: str) -> None:
    assert answer_text(text) == text
