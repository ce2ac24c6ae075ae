"""What the rows of an evaluation amount to: figures of each side, their difference, and how sure it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from packager.errors import InputInvalid
from packager.evaluation.row_file import EvaluatedRow, Header
from packager.evaluation.sides import SideName
from packager.metrics.bootstrap import PERCENT, Interval, paired_intervals
from packager.metrics.metric import Metric

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure over all scored rows, 0 to 100.

    Attributes:
        name: Its name.
        packaged: That of the packaged model.
        reference: That of the reference, None without one; so are the next two.
        difference: Packaged minus reference.
        interval: Where the difference lies.
    """

    name: str
    packaged: float
    reference: float | None = None
    difference: float | None = None
    interval: Interval | None = None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """An evaluation's result.

    Attributes:
        header: What was evaluated, with what.
        rows: How many rows were asked.
        scored: How many count: those that every side answered.
        same_predictions: How many of these both sides answered alike, to the character; None without a reference.
        not_answered: `row N, SIDE: CODE: reason` of every answer that is missing.
        figures: The metric's figures.
        interval_method: How the intervals were made; empty without a reference.
    """

    header: Header
    rows: int
    scored: int
    same_predictions: int | None
    not_answered: tuple[str, ...]
    figures: tuple[Figure, ...]
    interval_method: str


def summarise(rows: Iterable[EvaluatedRow], header: Header, metric: Metric, *, resamples: int, seed: int) -> Summary:
    """Give the figures of the rows that every side answered.

    Args:
        rows: All rows of all sides.
        header: What they depend on.
        metric: What they were scored with.
        resamples: How many the intervals are made of.
        seed: Of the resamples.

    Raises:
        InputInvalid: There is no row that every side answered.
    """
    answers: dict[SideName, dict[int, EvaluatedRow]] = {}
    for row in rows:
        answers.setdefault(row.side, {})[row.row] = row
    missing = tuple(
        f"row {row.row}, {side.value}: {row.not_answered}"
        for side, mine in answers.items()
        for row in mine.values()
        if row.scores is None
    )
    packaged, reference = answers[SideName.PACKAGED], answers.get(SideName.REFERENCE)
    scored = [number for number in packaged if all(mine[number].scores is not None for mine in answers.values())]
    if not scored:
        raise InputInvalid(
            f"no row was answered: {missing[0]}", hint="When that is mended, run it again with --restart."
        )
    other = _statistics(packaged, scored)
    figures = tuple(
        Figure(name=name, packaged=value) for name, value in zip(metric.figures, metric.corpus(other), strict=True)
    )
    same, method = None, ""
    if reference is not None:
        one = _statistics(reference, scored)
        intervals = paired_intervals(one, other, metric.corpus, resamples=resamples, seed=seed)
        figures = tuple(map(_compared, figures, metric.corpus(one), intervals))
        same = sum(packaged[number].prediction == reference[number].prediction for number in scored)
        method = f"{PERCENT} % percentile interval of {resamples} paired bootstrap resamples of the rows, seed {seed}"
    return Summary(
        header=header,
        rows=header.rows,
        scored=len(scored),
        same_predictions=same,
        not_answered=missing,
        figures=figures,
        interval_method=method,
    )


def _statistics(rows: dict[int, EvaluatedRow], scored: list[int]) -> NDArray[np.float64]:
    import numpy as np

    return np.array([row.scores.statistics for row in map(rows.__getitem__, scored) if row.scores], dtype=np.float64)


def _compared(figure: Figure, reference: float, interval: Interval) -> Figure:
    return replace(figure, reference=reference, difference=figure.packaged - reference, interval=interval)
