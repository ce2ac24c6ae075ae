"""Headers and rows as an evaluation writes them."""

from __future__ import annotations

from dataclasses import replace

from packager.evaluation.row_file import EvaluatedRow, Header
from packager.evaluation.sides import SideName, Subject
from packager.metrics.metric import LlamaFactoryScores

PACKAGED = Subject(name="packy:q8_0", engine="ollama 0.34.0", weights_sha256="a" * 64, settings_sha256="b" * 64)
REFERENCE = Subject(name="base+lora", engine="transformers 5.23.0", weights_sha256="c" * 64, settings_sha256="d" * 64)
HEADER = Header(
    packaged=PACKAGED,
    reference=REFERENCE,
    data_sha256="e" * 64,
    rows=3,
    max_tokens=8,
    metric="a metric",
    packager="0.1.0",
)
ALONE = replace(HEADER, reference=None)


def answered(number: int, side: SideName, score: float, prediction: str = "said") -> EvaluatedRow:
    """A row whose four figures are `score`."""
    scores = LlamaFactoryScores(bleu_4=score, rouge_1=score, rouge_2=score, rouge_l=score)
    return replace(unanswered(number, side), prediction=prediction, not_answered="", scores=scores)


def unanswered(number: int, side: SideName) -> EvaluatedRow:
    return EvaluatedRow(
        side=side, row=number, sha256=f"{number:064}", prompt="问\u2028", label="答", prediction=None,
        not_answered="CONTEXT_FULL: 300 tokens do not fit",
    )  # fmt: skip
