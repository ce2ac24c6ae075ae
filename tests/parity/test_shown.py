"""What can be seen of a distribution through texts alone: never more than there is, by hand and for any two of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from packager.engines.engine import TokenLogprob
from packager.parity.shown import ShownVocabulary, Top, shown_text

# Two special tokens, two halves of one character, two tokens of one text, and three that are alone.
SPOKEN = (b"", b"", b"\xf0\x9f", b"\x98\x80", b"a", b"a", b"b", b" c", "é".encode())
END, HALF, FIRST_A, SECOND_A, B, C = 0, 2, 4, 5, 6, 7


def log(*probabilities: float) -> NDArray[np.float32]:
    return np.log(np.array(probabilities, dtype=np.float64)).astype(np.float32)


def top(probabilities: list[float], count: int) -> Top:
    """What llama-server lists of a distribution over SPOKEN."""
    order = sorted(range(len(SPOKEN)), key=lambda token: -probabilities[token])[:count]
    texts = {token: SPOKEN[token].decode(errors="ignore") for token in order} | {3: "\ufffd\ufffd"}
    return tuple(TokenLogprob(text=texts[token], logprob=math.log(probabilities[token])) for token in order)


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


@st.composite
def distributions(draw: st.DrawFn) -> list[float]:
    weights = draw(st.lists(st.floats(0.01, 1.0), min_size=len(SPOKEN), max_size=len(SPOKEN)))
    return [weight / sum(weights) for weight in weights]


@pytest.mark.parametrize(
    ("piece", "text"),
    [
        pytest.param(b" the", " the", id="text"),
        pytest.param(b"", "", id="a special token"),
        pytest.param("é".encode(), "é", id="a whole character"),
        pytest.param(b" \xe4\xbd", " ", id="ends inside a character"),
        pytest.param(b"\xf0", "", id="begins a character"),
        pytest.param(b"\x98\x80", "\ufffd\ufffd", id="ends a character"),
    ],
)
def test_text_is_what_llama_server_prints(piece: bytes, text: str) -> None:
    assert shown_text(piece) == text


@given(distributions(), distributions(), st.integers(1, len(SPOKEN)))
def test_never_more_is_seen_than_there_is(p: list[float], q: list[float], count: int) -> None:
    seen = ShownVocabulary(SPOKEN).seen(log(*p), top(q, count), END)
    assert 0 <= seen.kl <= kl(p, q) + 1e-5


@given(distributions(), st.integers(1, len(SPOKEN)))
def test_equal_distributions_are_equal_through_any_list(p: list[float], count: int) -> None:
    first, second = sorted(p, reverse=True)[:2]
    assume(first > second * 1.001)  # float32 keeps them apart
    seen = ShownVocabulary(SPOKEN).seen(log(*p), top(p, count), p.index(first))
    assert seen.kl == pytest.approx(0, abs=1e-6)
    assert seen.same_top
    assert seen.shown_next == pytest.approx(seen.reference_next, abs=1e-5)


P = [0.5, 0.01, 0.02, 0.02, 0.2, 0.05, 0.1, 0.08, 0.02]


def test_an_end_is_found_among_the_tokens_without_text() -> None:
    q = [0.25, 0.02, 0.1, 0.02, 0.3, 0.11, 0.1, 0.08, 0.02]
    seen = ShownVocabulary(SPOKEN).seen(log(*P), top(q, 3), END)
    # Listed: "a" 0.3, no text 0.25, "a" 0.11; the reference's likeliest of each are 0.2 and 0.05, and 0.5.
    assert seen.kl == pytest.approx(kl([0.2, 0.5, 0.05, 0.25], [0.3, 0.25, 0.11, 0.34]), abs=1e-6)
    assert (seen.reference_next, seen.shown_next) == (pytest.approx(math.log(0.5)), pytest.approx(math.log(0.25)))
    assert not seen.same_top


def test_what_follows_and_is_not_listed_has_at_most_the_least_listed_probability() -> None:
    q = [0.02, 0.01, 0.02, 0.02, 0.5, 0.2, 0.1, 0.08, 0.05]
    seen = ShownVocabulary(SPOKEN).seen(log(*P), top(q, 3), END)
    assert seen.shown_next == pytest.approx(math.log(0.1))
    assert not seen.same_top


@pytest.mark.parametrize(
    ("text", "token", "only"),
    [
        pytest.param("b", B, True, id="alone"),
        pytest.param("a", FIRST_A, False, id="first of two"),
        pytest.param("a", SECOND_A, False, id="second of two"),
        pytest.param("", END, False, id="no text"),
        pytest.param("", HALF, False, id="half a character"),
        pytest.param("c", C, False, id="another text"),
        pytest.param("nothing", B, False, id="no token"),
    ],
)
def test_a_text_that_stands_for_one_token(text: str, token: int, only: bool) -> None:
    assert ShownVocabulary(SPOKEN).is_token(text, token) is only


def test_a_text_that_the_reference_has_no_row_for_is_one_of_the_rest() -> None:
    narrow = [share / sum(P[:C]) for share in P[:C]]
    q = [0.1, 0.02, 0.02, 0.02, 0.3, 0.1, 0.1, 0.2, 0.14]
    seen = ShownVocabulary(SPOKEN).seen(log(*narrow), top(q, 2), FIRST_A)
    assert seen.kl == pytest.approx(kl([narrow[FIRST_A], 1 - narrow[FIRST_A]], [0.3, 0.7]), abs=1e-6)


def test_rows_that_the_reference_padded_are_nobodys() -> None:
    wide = log(*P, 0.9, 1e-30)
    seen = ShownVocabulary(SPOKEN).seen(wide, top(P, len(P)), END)
    assert seen.same_top
    assert math.isfinite(seen.kl)
