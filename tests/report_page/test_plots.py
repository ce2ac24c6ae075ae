from __future__ import annotations

import math
import sys
from dataclasses import replace

import pytest

from packager.artifacts import Quant
from packager.evidence import TensorError
from packager.report_page import plots
from tests.report_page import sample


def kl_report(**changes: float) -> sample.Report:
    report = sample.full_report()
    distances = tuple(replace(found, **changes) for found in report.evidence.distances)
    return replace(report, evidence=replace(report.evidence, distances=distances))


def test_larger_files_stand_to_the_right_and_larger_distances_higher() -> None:
    plot = plots.kl_plot(sample.full_report())
    assert plot is not None
    points = [point for point in plot.points if point.engine == "llama.cpp"]
    assert [point.subject for point in points] == ["f16", "q8_0", "q4_k_m"]
    assert points[0].x > points[1].x > points[2].x
    assert points[0].y > points[1].y > points[2].y
    assert all(point.limit_y < point.y and point.kept for point in points)


def test_places_agree_with_the_axes() -> None:
    """A point's height is where its value stands between the ticks around it, by their own texts."""
    plot = plots.kl_plot(kl_report(mean_kl=1e-3))
    assert plot is not None
    ticks = {tick.text: tick.at for tick in plot.y_ticks}
    assert {point.y for point in plot.points} == {ticks["0.001"]}
    half = plots.kl_plot(kl_report(mean_kl=math.sqrt(1e-3 * 1e-2)))
    assert half is not None
    ticks = {tick.text: tick.at for tick in half.y_ticks}
    assert half.points[0].y == pytest.approx((ticks["0.001"] + ticks["0.01"]) / 2, abs=0.1)
    megabytes = {tick.text: tick.at for tick in half.x_ticks}
    share = sample.SIZES[Quant.F16] / 100e6
    assert half.points[0].x == pytest.approx(megabytes["0"] + share * (megabytes["100 MB"] - megabytes["0"]), abs=0.3)


def test_everything_stays_inside() -> None:
    for value in (0.0, 1e-12, 1e-3, 40.0, sys.float_info.max, math.nan):
        plot = plots.kl_plot(kl_report(mean_kl=value))
        assert plot is not None
        assert all(0 <= point.y <= 260 and 0 <= point.limit_y <= 260 and 0 <= point.x <= 400 for point in plot.points)
        assert all(0 <= tick.at <= 260 for tick in plot.y_ticks)
        assert [point.beyond for point in plot.points] == [not value < 1e300] * len(plot.points)


def test_a_broken_limit_stands_below_its_point() -> None:
    plot = plots.kl_plot(kl_report(mean_kl=2.0))
    assert plot is not None
    assert all(point.y < point.limit_y and not point.kept for point in plot.points)


def test_nothing_measured_is_no_plot() -> None:
    report = sample.old_report()
    assert plots.kl_plot(replace(report, verdict=replace(report.verdict, checks=()))) is None
    assert plots.tensor_plots(report) == ()


def test_an_empty_file_is_placed() -> None:
    report = sample.full_report()
    report = replace(report, ggufs=tuple(replace(gguf, size_bytes=0) for gguf in report.ggufs))
    plot = plots.kl_plot(report)
    assert plot is not None
    assert {point.size_text for point in plot.points} == {"0 B"}


def test_every_tensor_stands_in_its_layer() -> None:
    plot = plots.tensor_plots(sample.full_report())[1]
    assert len(plot.dots) == 340
    middles = {tick.text: tick.at for tick in plot.x_ticks}
    fourth = [dot.x for dot in plot.dots if dot.tensor.layer == 4]
    assert sum(fourth) / len(fourth) == pytest.approx(middles["4"], abs=0.2)
    assert all(dot.x < plot.outside_x for dot in plot.dots if dot.tensor.layer is None)
    assert {dot.y for dot in plot.dots if dot.tensor.relative_error == 0} == {plot.zero_y}
    assert all(dot.y == dot.expected_y for dot in plot.dots)
    assert plot.over == 0


def test_files_share_their_axes() -> None:
    exact, middle, small = plots.tensor_plots(sample.full_report())
    assert exact.y_ticks == middle.y_ticks == small.y_ticks
    assert max(dot.y for dot in small.dots if dot.y != small.zero_y) < min(dot.y for dot in exact.dots)


def test_the_worst_tensor_is_the_one_beyond_its_rounding() -> None:
    plot = plots.tensor_plots(sample.failed_report())[2]
    assert plot.worst.tensor == "blk.3.attn_q.weight"
    assert plot.over == 1
    dot = next(dot for dot in plot.dots if dot.over)
    assert dot.y < dot.expected_y


@pytest.mark.parametrize(
    ("found", "expected", "row", "over"),
    [
        (0.01, 0.01, None, False),
        (0.02, 0.01, 3, True),
        (0.005, 0.01, 3, False),
        (math.nan, 0.01, 3, True),
    ],
    ids=["as expected", "further", "nearer", "not a number"],
)
def test_over(found: float, expected: float, row: int | None, over: bool) -> None:
    tensor = TensorError(tensor="t", type="Q8_0", layer=0, relative_error=found, expected_error=expected, worst_row=row)
    assert plots.is_over(tensor) == over
