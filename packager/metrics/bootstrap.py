"""How sure the difference of two sides is: paired bootstrap over rows.

A resample draws as many rows as there are, with replacement, the same ones for both sides, and takes the difference of the
figures. The interval is the middle 95 % of these differences (percentile method).

Source: Koehn 2004, "Statistical Significance Tests for Machine Translation Evaluation"; Efron and Tibshirani 1993, chapter 13.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PERCENT = 95


@dataclass(frozen=True, kw_only=True)
class Interval:
    """The middle 95 % of the resampled differences, in the units of the figure."""

    low: float
    high: float


def paired_intervals(
    one: NDArray[np.float64],
    other: NDArray[np.float64],
    corpus: Callable[[NDArray[np.float64]], tuple[float, ...]],
    *,
    resamples: int,
    seed: int,
) -> tuple[Interval, ...]:
    """Give an interval of `other - one` for each figure; equal sides give exactly 0 to 0.

    Args:
        one: Statistics of one side, shape `(rows, statistics)`.
        other: Those of the other side, the same rows in the same order.
        corpus: Gives the figures of the rows that it is handed.
        resamples: How many are drawn, at least 1.
        seed: Of numpy's default generator; the draws are those of sacrebleu's paired bootstrap with the same seed.
    """
    import numpy as np

    draws = np.random.default_rng(seed)
    rows = len(one)
    differences = []
    for _ in range(resamples):
        drawn = draws.choice(rows, size=rows, replace=True)
        differences.append(np.subtract(corpus(other[drawn]), corpus(one[drawn])))
    tail = (100 - PERCENT) / 2
    low, high = np.percentile(np.array(differences), (tail, 100 - tail), axis=0)
    return tuple(Interval(low=float(a), high=float(b)) for a, b in zip(low, high, strict=True))
