"""Laws of the interval, and sacrebleu's own paired test on the same draws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from packager.metrics.bootstrap import Interval, paired_intervals
from packager.metrics.sacrebleu import Sacrebleu

SACREBLEU_SEED = 12345  # what it takes where SACREBLEU_SEED is not set
scores = st.lists(st.tuples(*[st.floats(0, 100)] * 2), min_size=1, max_size=30)


def means(rows: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(mean) for mean in rows.mean(axis=0))


@given(scores, st.integers(0, 2**32), st.integers(1, 50))
def test_equal_sides_differ_by_exactly_nothing(rows: list[tuple[float, ...]], seed: int, resamples: int) -> None:
    side = np.array(rows)

    found = paired_intervals(side, side.copy(), means, resamples=resamples, seed=seed)

    assert found == (Interval(low=0.0, high=0.0), Interval(low=0.0, high=0.0))


@given(scores, st.floats(-50, 50), st.integers(0, 2**32))
def test_a_shift_of_every_row_is_certain(rows: list[tuple[float, ...]], shift: float, seed: int) -> None:
    side = np.array(rows)

    for found in paired_intervals(side, side + shift, means, resamples=20, seed=seed):
        assert (found.low, found.high) == pytest.approx((shift, shift), abs=1e-9)


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_the_interval_holds_the_observed_difference_and_swaps_with_the_sides(data: int, seed: int) -> None:
    one, other = np.random.default_rng(data).uniform(0, 100, size=(2, 40, 3))

    there = paired_intervals(one, other, means, resamples=200, seed=seed)
    back = paired_intervals(other, one, means, resamples=200, seed=seed)

    for interval, mirrored, observed in zip(there, back, np.subtract(means(other), means(one)), strict=True):
        assert interval.low < observed < interval.high
        assert (mirrored.low, mirrored.high) == pytest.approx((-interval.high, -interval.low))


@given(scores, st.integers(0, 2**32))
def test_a_seed_gives_one_interval(rows: list[tuple[float, ...]], seed: int) -> None:
    one = np.array(rows)
    other = one[::-1]

    first = paired_intervals(one, other, means, resamples=10, seed=seed)

    assert paired_intervals(one, other, means, resamples=10, seed=seed) == first


def test_another_seed_gives_another_interval() -> None:
    one, other = np.random.default_rng(1).uniform(0, 100, size=(2, 40, 1))

    assert len({paired_intervals(one, other, means, resamples=50, seed=seed)[0] for seed in range(5)}) == 5


def test_its_width_is_that_of_the_normal_theory() -> None:
    one, other = np.random.default_rng(2).normal(50, 10, size=(2, 400, 1))

    (found,) = paired_intervals(one, other, means, resamples=2000, seed=0)

    error = (other - one).std(ddof=1) / np.sqrt(400)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_it_draws_what_sacrebleu_s_paired_test_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    from sacrebleu.metrics import BLEU
    from sacrebleu.significance import PairedTest, estimate_ci

    monkeypatch.delenv("SACREBLEU_SEED", raising=False)
    words = ["the", "a", "cat", "dog", "sat", "ran", "on", "under", "mat", "tree", "red", "old"]
    texts = np.random.default_rng(3).choice(words, size=(3, 25, 9))
    labels, one, other = ([" ".join(words) for words in side] for side in texts)
    one = [label if index % 2 else text for index, (label, text) in enumerate(zip(labels, one, strict=True))]
    metric = Sacrebleu()
    sides = [
        np.array([metric.score(*pair).statistics for pair in zip(side, labels, strict=True)]) for side in (one, other)
    ]
    seen: list[float] = []

    def corpus(rows: NDArray[np.float64]) -> tuple[float, ...]:
        seen.extend(metric.corpus(rows))
        return metric.corpus(rows)

    paired_intervals(sides[0], sides[1], corpus, resamples=100, seed=SACREBLEU_SEED)

    _, results = PairedTest(
        [("one", one), ("other", other)], {"BLEU": BLEU()}, [labels], test_type="bs", n_samples=100
    )()
    mean, half_width = estimate_ci(np.array(seen[0::2]))  # `other` is scored first
    assert (mean, half_width) == pytest.approx((results["BLEU"][1].mean, results["BLEU"][1].ci))
    assert results["BLEU"][1].ci > 0
