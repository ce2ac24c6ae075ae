"""What an evaluation is asked to do, and the metric that it names."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from packager.artifacts import Quant
from packager.formats.reference_name import ReferenceName
from packager.metrics.llamafactory import LlamaFactory
from packager.metrics.metric import Metric
from packager.metrics.sacrebleu import Sacrebleu, Words


class MetricName(StrEnum):
    """The metrics, by the name they are asked for with."""

    LLAMAFACTORY = "llamafactory"
    SACREBLEU = "sacrebleu"


@dataclass(frozen=True, kw_only=True)
class EvalRequest:
    """One evaluation.

    Attributes:
        model: The name of a model in Ollama, a build folder, or a GGUF file.
        quant: Which quant of the name or folder; None for the one it stands for.
        data: The rows, a `.jsonl` file.
        output: The folder of the results.
        reference: What the model is compared with; None scores the packaged model alone.
        template_file: The reference's chat template, as typed behind `--template`.
        reference_memory_bytes: The most memory for the reference's weights; None takes what is free.
        metric: Which one.
        words: What splits texts into words, for sacrebleu.
        limit: How many rows from the start; None for all.
        max_tokens: The longest answer.
        resamples: How many the intervals are made of.
        seed: Of the resamples.
        restart: Begin anew where results of other settings are.
    """

    model: str
    quant: Quant | None
    data: Path
    output: Path
    reference: ReferenceName | None
    template_file: str | None
    reference_memory_bytes: int | None
    metric: MetricName
    words: Words
    limit: int | None
    max_tokens: int
    resamples: int
    seed: int
    restart: bool

    def load_metric(self) -> Metric:
        """Give the metric, its packages loaded; raises ToolMissing when one is not installed."""
        return LlamaFactory() if self.metric is MetricName.LLAMAFACTORY else Sacrebleu(self.words)
