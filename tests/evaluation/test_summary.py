"""A summary counts the rows that every side answered, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from packager.errors import InputInvalid
from packager.evaluation.row_file import EvaluatedRow
from packager.evaluation.sides import SideName
from packager.evaluation.summary import Summary, summarise
from packager.metrics.bootstrap import Interval
from packager.metrics.llamafactory import LlamaFactory
from packager.metrics.sacrebleu import Sacrebleu
from tests.evaluation.rows_and_headers import ALONE, HEADER, answered, unanswered

ONE, OTHER = SideName.REFERENCE, SideName.PACKAGED


@pytest.fixture(scope="module")
def metric() -> LlamaFactory:
    return LlamaFactory()


def summed(rows: list[EvaluatedRow], metric: LlamaFactory, seed: int = 0) -> Summary:
    return summarise(rows, HEADER, metric, resamples=200, seed=seed)


def test_figures_are_means_and_their_difference(metric: LlamaFactory) -> None:
    rows = [answered(n, OTHER, score) for n, score in enumerate((10, 20, 60), 1)]
    rows += [answered(n, ONE, score) for n, score in enumerate((20, 20, 20), 1)]

    found = summed(rows, metric)

    assert [figure.name for figure in found.figures] == ["BLEU-4", "ROUGE-1", "ROUGE-2", "ROUGE-L"]
    for figure in found.figures:
        assert (figure.packaged, figure.reference, figure.difference) == (30.0, 20.0, 10.0)
        assert figure.interval is not None
        assert figure.interval.low < 10.0 < figure.interval.high
    assert (found.rows, found.scored, found.same_predictions, found.not_answered) == (3, 3, 3, ())
    assert found.interval_method == "95 % percentile interval of 200 paired bootstrap resamples of the rows, seed 0"


def test_equal_sides_differ_by_nothing(metric: LlamaFactory) -> None:
    rows = [answered(n, side, score) for side in (OTHER, ONE) for n, score in enumerate((1.1, 2.2, 33.3), 1)]

    for figure in summed(rows, metric).figures:
        assert (figure.difference, figure.interval) == (0.0, Interval(low=0.0, high=0.0))


def test_the_order_of_the_rows_does_not_matter_and_the_seed_does(metric: LlamaFactory) -> None:
    scores = np.random.default_rng(0).uniform(0, 100, 40).round(4)
    rows = [answered(n % 20, OTHER if n < 20 else ONE, float(score)) for n, score in enumerate(scores)]

    found = summed(rows, metric)

    assert summed(rows, metric) == found
    assert summed(rows[20:] + rows[:20], metric).figures == found.figures
    assert summed(rows, metric, seed=1).figures != found.figures


def test_rows_that_one_side_did_not_answer_count_for_none(metric: LlamaFactory) -> None:
    rows = [answered(1, OTHER, 10), answered(2, OTHER, 90), unanswered(3, OTHER)]
    rows += [answered(1, ONE, 30, prediction="other"), unanswered(2, ONE), answered(3, ONE, 80)]

    found = summed(rows, metric)

    assert (found.rows, found.scored, found.same_predictions) == (3, 1, 0)
    assert [(figure.packaged, figure.reference) for figure in found.figures] == [(10.0, 30.0)] * 4
    assert found.not_answered == (
        "row 3, packaged: CONTEXT_FULL: 300 tokens do not fit",
        "row 2, reference: CONTEXT_FULL: 300 tokens do not fit",
    )


def test_nothing_answered_is_an_error(metric: LlamaFactory) -> None:
    with pytest.raises(InputInvalid, match="no row was answered: row 1, packaged: CONTEXT_FULL"):
        summed([unanswered(1, OTHER), answered(1, ONE, 5)], metric)


def test_without_a_reference_there_is_nothing_to_compare(metric: LlamaFactory) -> None:
    found = summarise([answered(1, OTHER, 10)], ALONE, metric, resamples=10, seed=0)

    assert (found.same_predictions, found.interval_method) == (None, "")
    assert {(figure.packaged, figure.reference, figure.difference, figure.interval) for figure in found.figures} == {
        (10.0, None, None, None)
    }


def test_sacrebleu_s_figure_is_of_the_rows_together() -> None:
    from dataclasses import replace

    from sacrebleu import corpus_bleu

    metric = Sacrebleu()
    labels = ["a cat sat on the mat", "the dog ran under a tree"]
    said = {OTHER: ["a cat sat on a mat", "dog"], ONE: ["a cat sat on the mat", "the dog ran over a tree"]}
    rows = [
        replace(answered(number, side, 0), prediction=text, label=label, scores=metric.score(text, label))
        for side, texts in said.items()
        for number, (text, label) in enumerate(zip(texts, labels, strict=True), 1)
    ]

    (figure,) = summarise(rows, HEADER, metric, resamples=50, seed=0).figures

    assert figure.packaged == corpus_bleu(said[OTHER], [labels]).score
    assert figure.reference == corpus_bleu(said[ONE], [labels]).score
    assert figure.difference == figure.packaged - figure.reference
