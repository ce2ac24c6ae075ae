"""BLEU-4 and ROUGE as LLaMA-Factory's predict computes them, with the packages that it computes them with.

ROUGE is rouge_chinese's F over the words that jieba finds, BLEU-4 is nltk's sentence BLEU over characters with the NIST
smoothing; both times 100, rounded to four decimals a row, and averaged over rows. ROUGE is zero where a side has no word; BLEU
is taken of blanks too.

Unlike sacrebleu's, this BLEU is a mean over rows and not that of a corpus, and its units are characters in every language.

Source: LLaMA-Factory 0.9.5, src/llamafactory/train/sft/metric.py (`ComputeSimilarity`).
"""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from packager.metrics.metric import LlamaFactoryScores
from packager.metrics.packages import loading
from packager.user_cache import cache_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_PACKAGES = ("jieba", "nltk", "rouge-chinese")


class LlamaFactory:
    """The metric; making one loads its packages and jieba's dictionary.

    Raises:
        ToolMissing: A package of the extra `[eval]` is not installed.
    """

    figures: tuple[str, ...] = ("BLEU-4", "ROUGE-1", "ROUGE-2", "ROUGE-L")

    def __init__(self) -> None:
        with loading():
            import rouge_chinese
            from nltk.translate import bleu_score

            self._words = _words()
        self._rouge = rouge_chinese.Rouge()
        self._sentence_bleu = bleu_score.sentence_bleu
        self._smoothing = bleu_score.SmoothingFunction().method3

    @property
    def signature(self) -> str:
        """`LLaMA-Factory|bleu:characters,method3|rouge:jieba|jieba:0.42.1|nltk:3.9.1|rouge-chinese:1.0.3`."""
        packages = "|".join(f"{name}:{version(name)}" for name in _PACKAGES)
        return f"LLaMA-Factory|bleu:characters,method3|rouge:jieba|{packages}"

    def score(self, prediction: str, label: str) -> LlamaFactoryScores:
        """Score one row, each figure from 0 to 100."""
        said, expected = " ".join(self._words.cut(prediction)), " ".join(self._words.cut(label))
        f = {"rouge-1": 0.0, "rouge-2": 0.0, "rouge-l": 0.0}
        if said.split() and expected.split():
            f = {name: score["f"] for name, score in self._rouge.get_scores(said, expected)[0].items()}
        bleu = self._sentence_bleu([list(label)], list(prediction), smoothing_function=self._smoothing)
        return LlamaFactoryScores(
            bleu_4=round(float(bleu) * 100, 4),
            rouge_1=round(f["rouge-1"] * 100, 4),
            rouge_2=round(f["rouge-2"] * 100, 4),
            rouge_l=round(f["rouge-l"] * 100, 4),
        )

    def corpus(self, statistics: NDArray[np.float64]) -> tuple[float, ...]:
        """Give the means over rows; shape `(rows, 4)`."""
        return tuple(float(mean) for mean in statistics.mean(axis=0))


@cache
def _words() -> Any:  # jieba.Tokenizer: the package carries no types
    """Give jieba's tokenizer with its own dictionary, loaded.

    It is not the one that `jieba.cut` uses, which keeps its dictionary in a file of a known name that everybody may write, and
    trusts it. It is silent: what it logs is how long it loads, and that this file could not be written.
    """
    import jieba

    jieba.setLogLevel(logging.CRITICAL)
    folder = cache_folder()
    with suppress(OSError):  # without the file it loads a second longer
        folder.mkdir(parents=True, exist_ok=True)
    words = jieba.Tokenizer()
    words.tmp_dir = str(folder)
    words.initialize()
    return words
