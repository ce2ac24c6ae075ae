"""What every metric gives: scores of a row, and the figures of a corpus from the statistics of its rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class LlamaFactoryScores:
    """One row by LLaMA-Factory's predict: F x 100 of ROUGE over words, BLEU-4 x 100 over characters, four decimals."""

    bleu_4: float
    rouge_1: float
    rouge_2: float
    rouge_l: float

    @property
    def statistics(self) -> tuple[float, ...]:
        """What the figures of a corpus are made of."""
        return (self.bleu_4, self.rouge_1, self.rouge_2, self.rouge_l)


@dataclass(frozen=True, kw_only=True)
class BleuScores:
    """One row by sacrebleu.

    Attributes:
        bleu: BLEU of this row alone, of the n-gram orders that it has (`eff:yes`), 0 to 100.
        prediction_tokens: Length of the prediction, in the metric's own tokens.
        label_tokens: Length of the label.
        matches: How many n-grams of order 1, 2, 3, 4 the label has too.
        ngrams: How many the prediction has.
    """

    bleu: float
    prediction_tokens: int
    label_tokens: int
    matches: tuple[int, ...]
    ngrams: tuple[int, ...]

    @property
    def statistics(self) -> tuple[float, ...]:
        """What the figures of a corpus are made of."""
        return (self.prediction_tokens, self.label_tokens, *self.matches, *self.ngrams)


Scores = LlamaFactoryScores | BleuScores


class Metric(Protocol):
    """A metric whose packages are loaded."""

    figures: tuple[str, ...]

    @property
    def signature(self) -> str:
        """Everything that the figures depend on besides the texts, as one line."""
        ...

    def score(self, prediction: str, label: str) -> Scores:
        """Score one row."""
        ...

    def corpus(self, statistics: NDArray[np.float64]) -> tuple[float, ...]:
        """Give the figures of a corpus, in the order of `figures`.

        Args:
            statistics: One row's `statistics` each, shape `(rows, statistics)`, at least one row.
        """
        ...
