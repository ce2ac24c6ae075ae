"""Asks both sides every row, scores the answers as they come, and sums them up.

The packaged model answers first, all rows, then the reference: only one of them is in memory, and a model that cannot answer is
known before the slow side begins.
"""

from __future__ import annotations

import time
from dataclasses import replace
from importlib.metadata import version

from packager.codec import pretty_json
from packager.durable import write_durably
from packager.engines.engine import NotSupported
from packager.evaluation.request import EvalRequest
from packager.evaluation.row_file import SUMMARY_NAME, EvaluatedRow, Header, RowFile
from packager.evaluation.sides import Digests, Side, packaged_side, reference_side
from packager.evaluation.summary import Summary, summarise
from packager.events import Advanced, Emit, Noted, StageFinished, StageStarted
from packager.formats.labelled_rows import LabelledRow, read_labelled_rows
from packager.metrics.metric import Metric
from packager.workspace import Workspace

_SHOWN_NOTES = 5


def evaluate(request: EvalRequest, *, emit: Emit) -> Summary:
    """Answer and score every row that has no answer yet, then write `summary.json`.

    Raises:
        InputInvalid: A file cannot be used, the results there are of other settings, or nothing was answered.
        OllamaFailed: Ollama does not answer, or dies; what was answered is kept.
        ToolMissing: A package is not installed.
        Unsupported: The reference has no template, or an adapter of another kind.
        Locked: Another packager is writing the folder.
    """
    rows = read_labelled_rows(request.data, limit=request.limit)
    metric = request.load_metric()
    with Workspace(request.output, emit=emit) as workspace:
        sides = _sides(request, len(rows), workspace.digest_inputs, emit)
        header = Header(
            packaged=sides[0].subject,
            reference=sides[1].subject if len(sides) > 1 else None,
            data_sha256=workspace.digest_inputs((request.data,))[0].sha256,
            rows=len(rows),
            max_tokens=request.max_tokens,
            metric=metric.signature,
            packager=version("ollama-packager"),
        )
        with RowFile(request.output, header, restart=request.restart) as file:
            for side in sides:
                _answer(side, rows, file, metric, request.max_tokens, emit)
        summary = summarise(file.rows.values(), header, metric, resamples=request.resamples, seed=request.seed)
        for text in summary.not_answered[:_SHOWN_NOTES]:
            emit(Noted(stage="eval", text=f"not scored: {text}", warning=True))
        write_durably(request.output / SUMMARY_NAME, pretty_json(summary))
    return summary


def answer_text(text: str) -> str:
    """Give an answer without the reasoning in front of it, which Ollama hands out apart; half a character becomes `?`.

    Worked example:
        >>> answer_text("<think>2 + 2</think>\\n\\n4")
        '4'
    """
    whole = text.encode(errors="replace").decode()
    if "</think>" in whole:
        return whole.partition("</think>")[2].lstrip()
    return "" if whole.lstrip().startswith("<think>") else whole


def _sides(request: EvalRequest, rows: int, digests: Digests, emit: Emit) -> tuple[Side, ...]:
    packaged = packaged_side(request.model, request.quant, digests=digests, emit=emit)
    if request.reference is None:
        return (packaged,)
    reference = reference_side(
        request.reference,
        request.template_file,
        memory_bytes=request.reference_memory_bytes,
        passes=rows * request.max_tokens,
        digests=digests,
        emit=emit,
    )
    return (packaged, reference)


def _answer(
    side: Side, rows: tuple[LabelledRow, ...], file: RowFile, metric: Metric, max_tokens: int, emit: Emit
) -> None:
    started, stage = time.monotonic(), side.name.value
    left = [row for row in rows if (side.name, row.number) not in file.rows]
    there = f", {len(rows) - len(left)} of them answered before" if len(left) < len(rows) else ""
    emit(StageStarted(stage=stage, title=f"{side.subject.name} on {side.subject.engine}, {len(rows)} rows{there}"))
    for done, row in enumerate(left, start=len(rows) - len(left)):
        emit(Advanced(stage=stage, done=done, total=len(rows), unit="row", detail=f"line {row.number}"))
        file.add(_evaluated(side, row, metric, max_tokens))
    side.close()
    emit(StageFinished(stage=stage, seconds=time.monotonic() - started, reused=not left))


def _evaluated(side: Side, row: LabelledRow, metric: Metric, max_tokens: int) -> EvaluatedRow:
    asked = EvaluatedRow(
        side=side.name, row=row.number, sha256=row.sha256, prompt=row.question, label=row.label, prediction=None
    )
    said = side.engine.generate(row.conversation, max_tokens=max_tokens)
    if isinstance(said, NotSupported):
        return replace(asked, not_answered=f"{said.code}: {said.detail}")
    prediction = answer_text(said)
    return replace(asked, prediction=prediction, scores=metric.score(prediction, answer_text(row.label)))
