from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packager.parity.differences import common_length, ids_difference, text_difference


def piece(token: int) -> str:
    return f"<{token}>"


@pytest.mark.parametrize(
    ("expected", "found", "line"),
    [
        pytest.param("<s>Hi", "Hi", "character 0: reference '<s>Hi', engine 'Hi'", id="lost at the start"),
        pytest.param("Hi", "Hi\n", "character 2: reference 'Hi', engine 'Hi\\n'", id="one more at the end"),
        pytest.param("", "x", "character 0: reference '', engine 'x'", id="nothing expected"),
        pytest.param("same", "same", "", id="equal"),
    ],
)
def test_a_text_difference_shows_both_sides(expected: str, found: str, line: str) -> None:
    assert text_difference(expected, found) == line


def test_a_text_difference_shows_only_its_surroundings() -> None:
    line = text_difference("a" * 1000 + "X" + "b" * 1000, "a" * 1000 + "Y" + "b" * 1000)
    assert line.startswith("character 1000: ")
    assert f"'{'a' * 16}X{'b' * 23}'" in line
    assert len(line) < 150


@pytest.mark.parametrize(
    ("expected", "found", "line"),
    [
        pytest.param((1, 2, 3), (1, 9, 3), "token 1: reference 2 '<2>', engine 9 '<9>'", id="another token"),
        pytest.param((1, 2), (1,), "token 1: reference 2 '<2>', engine the end", id="too short"),
        pytest.param((5, 7), (5, 5, 7), "token 1: reference 7 '<7>', engine 5 '<5>'", id="doubled"),
        pytest.param((), (3,), "token 0: reference the end, engine 3 '<3>'", id="nothing expected"),
        pytest.param((1, 2), (1, 2), "", id="equal"),
    ],
)
def test_an_ids_difference_names_the_tokens(expected: tuple[int, ...], found: tuple[int, ...], line: str) -> None:
    assert ids_difference(expected, found, piece) == line


@given(st.text(), st.text(), st.text())
def test_the_common_length_is_the_longest_shared_start(shared: str, one: str, other: str) -> None:
    length = common_length(shared + one, shared + other)
    assert length >= len(shared)
    assert (shared + one)[:length] == (shared + other)[:length]
    assert (shared + one)[length : length + 1] != (shared + other)[
        length : length + 1
    ] or shared + one == shared + other


@given(st.text(), st.text())
def test_only_equal_texts_have_no_difference(one: str, other: str) -> None:
    assert (text_difference(one, other) == "") == (one == other)
