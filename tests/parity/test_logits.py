"""Distances, against the definition written out over small arrays."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from packager.engines.engine import TokenLogprob
from packager.evidence import Part, PartDistance
from packager.parity.logits import (
    NOT_A_NUMBER,
    Scores,
    joined,
    kl_nats,
    lumped_kl,
    part_distance,
    scores,
    unique_texts,
)


def log(*probabilities: float) -> NDArray[np.float32]:
    with np.errstate(divide="ignore"):
        return np.log(np.array(probabilities, dtype=np.float64)).astype(np.float32)


def definition(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


@st.composite
def distributions(draw: st.DrawFn, size: int = 6) -> list[float]:
    weights = draw(st.lists(st.floats(0.01, 1.0), min_size=size, max_size=size))
    return [weight / sum(weights) for weight in weights]


@pytest.mark.parametrize(
    ("p", "q"),
    [
        pytest.param([0.5, 0.5], [0.5, 0.5], id="equal"),
        pytest.param([0.7, 0.2, 0.1], [0.1, 0.2, 0.7], id="turned round"),
        pytest.param([0.999, 0.0005, 0.0005], [0.5, 0.25, 0.25], id="a sure reference"),
    ],
)
def test_kl_is_the_definition(p: list[float], q: list[float]) -> None:
    (found,) = kl_nats(log(*p)[None], log(*q)[None])
    assert found == pytest.approx(definition(p, q), abs=1e-6)


@given(distributions(), distributions())
def test_kl_is_never_negative_and_zero_only_at_home(p: list[float], q: list[float]) -> None:
    (there,) = kl_nats(log(*p)[None], log(*q)[None])
    (home,) = kl_nats(log(*p)[None], log(*p)[None])
    assert there >= 0
    assert home == 0
    assert there == pytest.approx(definition(p, q), abs=1e-5)


def test_kl_has_a_direction() -> None:
    (one,) = kl_nats(log(0.9, 0.1)[None], log(0.5, 0.5)[None])
    (other,) = kl_nats(log(0.5, 0.5)[None], log(0.9, 0.1)[None])
    assert one == pytest.approx(0.9 * math.log(1.8) + 0.1 * math.log(0.2), abs=1e-6)
    assert one != pytest.approx(other, abs=1e-3)


def test_a_large_vocabulary_loses_nothing() -> None:
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(150_000), size=2)
    (found,) = kl_nats(np.log(p).astype(np.float32)[None], np.log(q).astype(np.float32)[None])
    assert found == pytest.approx(float(np.sum(p * np.log(p / q))), rel=1e-5)


REFERENCE = np.stack([log(0.7, 0.2, 0.1), log(0.1, 0.8, 0.1), log(0.3, 0.3, 0.4)])
ENGINE = np.stack([log(0.6, 0.3, 0.1), log(0.5, 0.4, 0.1), log(0.2, 0.3, 0.5)])
FOLLOWING = (0, 1, 0)
EACH = [
    definition([0.7, 0.2, 0.1], [0.6, 0.3, 0.1]),
    definition([0.1, 0.8, 0.1], [0.5, 0.4, 0.1]),
    definition([0.3, 0.3, 0.4], [0.2, 0.3, 0.5]),
]


def summed(found: Scores) -> PartDistance:
    return part_distance(found, subject="q8_0", engine="llama.cpp", part=Part.ANSWER)


def test_a_distance_is_the_definition_of_each_measure() -> None:
    found = summed(scores(REFERENCE, ENGINE, FOLLOWING))
    assert found.positions == 3
    assert found.mean_kl == pytest.approx(sum(EACH) / 3, abs=1e-6)
    assert found.max_kl == pytest.approx(max(EACH), abs=1e-6)
    assert found.top1 == pytest.approx(2 / 3, abs=1e-5)
    changes = [0.6 - 0.7, 0.4 - 0.8, 0.2 - 0.3]
    assert found.rms_probability == pytest.approx(math.sqrt(sum(c * c for c in changes) / 3), abs=1e-6)
    assert found.perplexity_ratio == pytest.approx((0.7 / 0.6 * 0.8 / 0.4 * 0.3 / 0.2) ** (1 / 3), rel=1e-5)


@pytest.mark.parametrize("cut", [0, 1, 2, 3])
def test_stretches_put_together_are_the_whole(cut: int) -> None:
    whole = scores(REFERENCE, ENGINE, FOLLOWING)
    parts = [
        scores(REFERENCE[:cut], ENGINE[:cut], FOLLOWING[:cut]),
        scores(REFERENCE[cut:], ENGINE[cut:], FOLLOWING[cut:]),
    ]
    assert summed(joined(parts)) == summed(whole)
    assert summed(joined([whole.between(0, cut), whole.between(cut, None)])) == summed(whole)


@pytest.mark.parametrize(("count", "rank"), [(1, 1), (50, 50), (100, 99), (101, 100), (200, 198)], ids=str)
def test_the_99_percent_is_the_nearest_rank(count: int, rank: int) -> None:
    values = np.arange(1, count + 1, dtype=np.float64)[::-1].copy()
    same = np.ones(count, dtype=np.bool_)
    assert summed(Scores(kl=values, same_top=same, reference_next=values, engine_next=values)).p99_kl == rank


def test_a_model_that_computes_no_number_is_infinitely_far_away() -> None:
    broken = np.full_like(ENGINE, np.nan)
    found = summed(scores(REFERENCE, broken, FOLLOWING))
    assert found.mean_kl == found.max_kl == found.perplexity_ratio == NOT_A_NUMBER
    assert found.top1 <= 2 / 3


@given(distributions(), distributions())
def test_equal_sides_are_nowhere_apart(p: list[float], q: list[float]) -> None:
    rows = np.stack([log(*p), log(*q)])
    found = summed(scores(rows, rows, (0, 5)))
    assert (found.mean_kl, found.max_kl, found.top1, found.rms_probability) == (0, 0, 1, 0)
    assert found.perplexity_ratio == 1


def served(ids: dict[str, int], q: list[float], count: int) -> tuple[TokenLogprob, ...]:
    top = sorted(ids, key=lambda text: -q[ids[text]])[:count]
    return tuple(TokenLogprob(text=text, logprob=math.log(q[ids[text]])) for text in top)


IDS = {letter: index for index, letter in enumerate("abcdef")}


@given(distributions(), distributions(), st.integers(1, 6))
def test_what_is_seen_through_the_top_tokens_is_at_most_the_whole(p: list[float], q: list[float], count: int) -> None:
    seen = lumped_kl(log(*p), served(IDS, q, count), IDS)
    assert -1e-9 <= seen <= definition(p, q) + 1e-5


@given(distributions(), distributions())
def test_with_every_token_in_the_list_nothing_is_lost(p: list[float], q: list[float]) -> None:
    assert lumped_kl(log(*p), served(IDS, q, 6), IDS) == pytest.approx(definition(p, q), abs=1e-5)


def test_joined_categories_by_hand() -> None:
    top = (TokenLogprob(text="a", logprob=math.log(0.5)),)
    assert lumped_kl(log(0.7, 0.2, 0.1), top, IDS) == pytest.approx(definition([0.7, 0.3], [0.5, 0.5]), abs=1e-6)


def test_a_text_that_no_token_has_belongs_to_the_rest() -> None:
    top = (TokenLogprob(text="a", logprob=math.log(0.5)), TokenLogprob(text="\ufffd", logprob=math.log(0.2)))
    assert lumped_kl(log(0.7, 0.2, 0.1), top, IDS) == pytest.approx(definition([0.7, 0.3], [0.5, 0.5]), abs=1e-6)


def test_a_served_distribution_that_leaves_no_rest_is_far_but_finite() -> None:
    seen = lumped_kl(log(0.5, 0.5), (TokenLogprob(text="a", logprob=0.0),), IDS)
    assert 10 < seen < 20


def test_only_texts_of_one_whole_token_are_mapped() -> None:
    assert unique_texts((b"a", b"b", b"a", b"\xe4\xbd", "é".encode(), b"")) == {"b": 1, "é": 4, "": 5}
