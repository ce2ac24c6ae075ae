"""Growth on points whose law is known."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.benchmark.growth import fit_exponent, fit_line


@pytest.mark.parametrize(
    ("exponent", "factor"), [(0.0, 3.0), (1.0, 0.2), (1.7, 5.0), (-1.0, 2.0)], ids=["none", "linear", "more", "falling"]
)
def test_a_power_law_gives_its_exponent(exponent: float, factor: float) -> None:
    xs = [0.1, 0.5, 1.5, 7.6]
    assert fit_exponent(xs, [factor * x**exponent for x in xs]) == pytest.approx(exponent, abs=1e-9)


def test_a_line_gives_its_two_numbers() -> None:
    line = fit_line([1, 2, 5], [10, 13, 22])
    assert (line.fixed, line.slope) == pytest.approx((7, 3))


def test_points_beside_a_line_are_fitted_as_numpy_does() -> None:
    xs, ys = [0.13, 0.49, 1.54, 7.6], [9.0, 21.5, 48.0, 260.0]
    slope, fixed = np.polyfit(xs, ys, 1)
    line = fit_line(xs, ys)
    assert (line.fixed, line.slope) == pytest.approx((fixed, slope))
    assert fit_exponent(xs, ys) == pytest.approx(np.polyfit(np.log(xs), np.log(ys), 1)[0])
