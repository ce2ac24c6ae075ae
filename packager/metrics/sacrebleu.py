"""Corpus BLEU by sacrebleu, with the signature that says how it was computed.

sacrebleu's own paired test gives a p-value and an interval for each system, none for their difference, and takes its seed from
the environment. So what is resampled here are the statistics of the sentences, as it does, and each resample is scored by it.

Source: sacrebleu 2.6, metrics/bleu.py (`BLEU`), significance.py (`_paired_bs_test`); Post 2018, arXiv:1804.08771.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from packager.metrics.metric import BleuScores
from packager.metrics.packages import loading

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ORDERS = 4


class Words(StrEnum):
    """Which of sacrebleu's tokenizers splits the texts; the default, 13a, takes a Chinese sentence for one word."""

    MTEVAL_13A = "13a"
    CHINESE = "zh"
    CHARACTERS = "char"


class Sacrebleu:
    """The metric; making one loads its package.

    Args:
        words: What splits texts into words.

    Raises:
        ToolMissing: The extra `[eval]` is not installed.
    """

    figures: tuple[str, ...] = ("BLEU",)

    def __init__(self, words: Words = Words.MTEVAL_13A) -> None:
        with loading():
            from sacrebleu.metrics.bleu import BLEU
        self._corpus = BLEU(tokenize=words.value)
        self._sentence = BLEU(tokenize=words.value, effective_order=True)

    @property
    def signature(self) -> str:
        """`nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0`, from sacrebleu itself."""
        self._corpus.corpus_score(["a"], [["a"]])  # it knows the number of references from a call
        return str(self._corpus.get_signature())

    def score(self, prediction: str, label: str) -> BleuScores:
        """Score one row, and give its statistics for the corpus."""
        found = self._corpus.corpus_score([prediction], [[label]])
        return BleuScores(
            bleu=float(self._sentence.sentence_score(prediction, [label]).score),
            prediction_tokens=found.sys_len,
            label_tokens=found.ref_len,
            matches=tuple(found.counts),
            ngrams=tuple(found.totals),
        )

    def corpus(self, statistics: NDArray[np.float64]) -> tuple[float, ...]:
        """Give the BLEU of the rows together, 0 to 100; shape `(rows, 10)`."""
        said, expected, *counts = (int(total) for total in statistics.sum(axis=0))
        found = self._corpus.compute_bleu(
            correct=counts[:_ORDERS],
            total=counts[_ORDERS:],
            sys_len=said,
            ref_len=expected,
            smooth_method=self._corpus.smooth_method,
        )
        return (float(found.score),)
