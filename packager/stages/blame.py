"""Which stage is to blame: every stage of a build looked at by itself, in the order in which a fault would enter.

A verdict says that a file answers otherwise than training did, not why: a wrong scale of the adapter, a corrupt block, a lost
BOS and a wrong rope base all end in other answers. Here the chain is walked from its start, merged weights, template,
tokenizer, every file's tensors and metadata, engine, registered model, and the first stage that is not what it should be is
the one to mend. What the verdict knows already is taken from it. docs/blame.md shows each fault.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packager.artifacts import Adapter, ChatTemplate, Check, Checkpoint, Gguf, Outcome, Quant, Registered, Verdict
from packager.errors import InputInvalid, OllamaFailed, ToolMissing, Unsupported
from packager.events import Emit, StageFinished, StageStarted, silent
from packager.evidence import Blame, CharacterClass, FileTensors, Stage, StageFinding
from packager.formats.gguf import MetadataEntry
from packager.formats.model_name import ModelName
from packager.sources.llama_cpp_tree import LlamaCppTree

if TYPE_CHECKING:
    from packager.blame.files import ReadFile
    from packager.engines.ollama import OllamaServer
    from packager.engines.ollama_replies import StoredModel
    from packager.weights.tensor_errors import MergedModel


STAGE = "tensors"


@dataclass(frozen=True, kw_only=True)
class TraceJob:
    """What was verified, and what came of it.

    Attributes:
        base: The base the files were made from.
        adapter: The fine-tune.
        template: The canonical template.
        ggufs: The files, of one folder.
        registered: What Ollama stored of them.
        verdict: The verdict on them.
        tokenizer: The files' tokenizer against the reference's, where that was compared.
        tree: llama.cpp's converter; None where it is not at hand.
        reference_memory_bytes: The memory that one model in float32 may take; None for what is free.
    """

    base: Checkpoint
    adapter: Adapter | None
    template: ChatTemplate
    ggufs: tuple[Gguf, ...]
    registered: tuple[Registered, ...]
    verdict: Verdict
    tokenizer: tuple[CharacterClass, ...]
    tree: LlamaCppTree | None
    reference_memory_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Traced:
    """The tensors of every file that could be read, a check of each; `blame` is None when nothing is wrong."""

    checks: tuple[Check, ...]
    tensors: tuple[FileTensors, ...]
    blame: Blame | None


def trace(job: TraceJob, server: OllamaServer | None, *, emit: Emit = silent) -> Traced:
    """Compare every tensor of every file with the merged weights, and find the stage to blame where something is wrong.

    Something is wrong when a check failed, that of the tensors included: not what rounding makes of the merged weights.

    Args:
        job: What was verified.
        server: Where models are registered; None when no Ollama answered.
        emit: Told which tensors are compared.
    """
    from packager.blame.files import read_file, tensors_check

    started = time.monotonic()
    emit(StageStarted(stage=STAGE, title="compare every tensor with the merged weights"))
    with ExitStack() as stack:
        model, problem = _opened(job, stack)
        files = tuple(read_file(gguf, model, problem, emit=emit) for gguf in job.ggufs)
        checks = tuple(map(tensors_check, files))
        wrong = any(check.outcome is Outcome.FAILED for check in (*job.verdict.checks, *checks))
        expected = _expected_metadata(job, model) if wrong else ()
    blame = Blame(findings=_findings(job, server, files, expected)) if wrong else None
    emit(StageFinished(stage=STAGE, seconds=time.monotonic() - started))
    read = [(file.gguf.quant.value, file.tensors.tensors) for file in files if file.tensors is not None]
    tensors = tuple(FileTensors(subject=name, tensors=found) for name, found in read)
    return Traced(checks=checks, tensors=tensors, blame=blame)


def blame_line(blame: Blame) -> str:
    """Give who is to blame, in one line: `to blame: q4_k_m GGUF, blk.3.attn_q.weight: the adapter's update is missing`."""
    first = blame.first
    if first is None:
        return "to blame: no stage by itself; every one that was looked at is as it should be"
    file = first.stage in (Stage.F16, Stage.QUANT)
    name = f"{first.subject} GGUF" if file else f"{first.stage.value} {first.subject}".strip()
    return f"to blame: {name}, {first.detail}"


def _opened(job: TraceJob, stack: ExitStack) -> tuple[MergedModel | None, str]:
    """Give the merged weights as the converter maps them, or why they cannot be had."""
    if job.tree is None:
        return None, "llama.cpp's converter is not here; packager build fetches it"
    try:
        from packager.weights.tensor_errors import MergedModel

        return stack.enter_context(MergedModel(job.base, job.adapter, job.tree)), ""
    except (InputInvalid, Unsupported, ToolMissing) as error:
        return None, error.message


def _expected_metadata(job: TraceJob, model: MergedModel | None) -> tuple[MetadataEntry, ...]:
    """Give the header that a file of the base should have; nothing where there is no converter to ask."""
    if model is None:
        return ()
    from packager.weights.gguf_metadata import with_template

    return with_template(model.conversion.metadata(""), job.template)


def _findings(
    job: TraceJob, server: OllamaServer | None, files: tuple[ReadFile, ...], expected: tuple[MetadataEntry, ...]
) -> tuple[StageFinding, ...]:
    from packager.blame.engines import engine_finding, registered_finding, rounding_fault
    from packager.blame.files import file_finding, metadata_of, template_finding, tokenizer_finding
    from packager.blame.merge import merge_finding

    differences = [metadata_of(file, expected) for file in files]
    compared = list(zip(files, differences, strict=True))
    made, engines = [], []
    for file, found in compared:
        rounding = rounding_fault(job.verdict, file.gguf.quant)
        finding = file_finding(file, found, job.verdict, rounding)
        made.append(finding)
        blamed = rounding if finding.detail == rounding else ""
        engines.append(engine_finding(job.verdict, file.gguf.quant, blamed))
    if all(file.gguf.quant is not Quant.F16 for file in files):
        absent = "there is no f16 file in this build"
        made.insert(0, StageFinding(stage=Stage.F16, subject="f16", outcome=Outcome.NOT_CHECKED, detail=absent))
    served = []
    for gguf in job.ggufs:
        registered = next((model for model in job.registered if model.quant is gguf.quant), None)
        stored = _stored(registered, server)
        served.append(registered_finding(job.verdict, gguf.quant, registered, stored, job.template.stops))
    return (
        merge_finding(
            job.base, job.adapter, job.template.text, job.ggufs[0].path.parent, memory_bytes=job.reference_memory_bytes
        ),
        *(template_finding(file, job.template) for file in files),
        *(tokenizer_finding(file, found, job.tokenizer) for file, found in compared),
        *made,
        *engines,
        *served,
    )


def _stored(registered: Registered | None, server: OllamaServer | None) -> StoredModel | None:
    if registered is None or server is None:
        return None
    try:
        return server.find(ModelName.parse(registered.name))
    except OllamaFailed:  # the checks of its column say so
        return None
