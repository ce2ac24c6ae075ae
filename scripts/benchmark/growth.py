"""How a figure grows with the number of parameters: least squares on points (parameters, figure)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Line:
    """`fixed + slope * x`."""

    fixed: float
    slope: float


def fit_line(xs: Sequence[float], ys: Sequence[float]) -> Line:
    """Give the line through points with the smallest sum of squares; at least two different xs.

    >>> fit_line([1, 2, 3], [5, 7, 9])
    Line(fixed=3.0, slope=2.0)
    """
    middle_x, middle_y = sum(xs) / len(xs), sum(ys) / len(ys)
    slope = sum((x - middle_x) * (y - middle_y) for x, y in zip(xs, ys, strict=True))
    slope /= sum((x - middle_x) ** 2 for x in xs)
    return Line(fixed=middle_y - slope * middle_x, slope=slope)


def fit_exponent(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Give e of the `y = c * x**e` that fits best on logarithmic axes: 1 is linear growth, 0 none."""
    return fit_line([math.log(x) for x in xs], [math.log(y) for y in ys]).slope
