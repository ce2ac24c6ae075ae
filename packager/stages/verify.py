"""Compare every GGUF of a build, and every model registered from it, with base and adapter under transformers and peft."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from packager.artifacts import Adapter, ChatTemplate, Check, Checkpoint, Gguf, Outcome, Quant, Registered, Verdict
from packager.chat.probes import load_probes
from packager.durable import FileDigest
from packager.errors import InputInvalid, OllamaFailed, ToolMissing
from packager.events import Emit, silent
from packager.evidence import Evidence, Subject
from packager.formats.checkpoint import folder_name
from packager.formats.fine_tuned import fine_tuned
from packager.formats.labelled_rows import LabelledRow
from packager.parity.findings import Findings
from packager.parity.gates import Gates, QuantGates
from packager.parity.matrix import CORE
from packager.parity.steps import Steps
from packager.parity.structure import check_structure

if TYPE_CHECKING:
    from packager.engines.llama_cpp import Embedded
    from packager.engines.ollama import OllamaServer
    from packager.parity.truth import Truth

__all__ = ["Gates", "Verified", "VerifyJob", "verify"]

_CONTEXT_STEP = 256


@dataclass(frozen=True, kw_only=True)
class VerifyJob:
    """What to compare with what.

    Attributes:
        base: The base the files were made from.
        adapter: The fine-tune, unmerged; None compares with the base alone.
        template: The canonical template; the reference renders it, every file must hold it.
        ggufs: The files.
        registered: What Ollama stored of them; empty when nothing was registered.
        gates: The limits.
        inputs: The files of base and adapter, for the cache of the reference's answers.
        data: Rows of the user's, followed along the answers that they expect.
        reference_memory_bytes: The most memory for the reference's weights; None takes what is free.
    """

    base: Checkpoint
    adapter: Adapter | None
    template: ChatTemplate
    ggufs: tuple[Gguf, ...]
    registered: tuple[Registered, ...]
    gates: Gates
    inputs: tuple[FileDigest, ...]
    data: tuple[LabelledRow, ...] = ()
    reference_memory_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Verified:
    """A verdict, and the evidence behind it."""

    verdict: Verdict
    evidence: Evidence


def verify(job: VerifyJob, server: OllamaServer | None, *, emit: Emit = silent) -> Verified:
    """Ask the reference once, then every file on the embedded llama.cpp and every registered model in Ollama.

    A check that an absent engine leaves open says so and is never passed. What a file or a server does wrong is a failed
    check, not an exception, so that one bad quant does not hide the verdict on the others.

    Args:
        job: What to compare.
        server: Where the models are registered; None when no Ollama answered.
        emit: Told of every conversation put to an engine.

    Returns:
        All checks: for each file its structure, then llama.cpp's, then Ollama's; and what they were made from.

    Raises:
        ToolMissing: torch, transformers or peft is not installed.
        InputInvalid: The base or the adapter cannot be loaded.
        Unsupported: The template refuses every CORE conversation.
    """
    from packager.engines.offload import offload_for
    from packager.engines.transformers import Reference
    from packager.parity.embedded import embedded_probes
    from packager.parity.reference_cache import ReferenceCache
    from packager.parity.served import served_probes
    from packager.parity.truth import ask_reference

    conversations, cache = load_probes(), ReferenceCache()
    offload = offload_for(job.base, cache.folder, job.reference_memory_bytes)
    reference = Reference(job.base.folder, job.adapter, job.template.text, offload=offload)
    versions = [f"{reference.name} {reference.version()}"]
    core = sum(probe.group == CORE for probe in conversations)
    embedded, served = embedded_probes(len(conversations), core, len(job.data)), served_probes(len(conversations), core)
    steps = Steps(core + len(job.data) + len(job.ggufs) * embedded + len(job.registered) * served, emit)
    truth = ask_reference(reference, conversations, job.data, job.inputs, cache, steps, emit)
    found = Findings(checks=())
    for gguf in job.ggufs:
        model = next((model for model in job.registered if model.quant is gguf.quant), None)
        with steps.section(embedded + (served if model is not None else 0), gguf.path.name):
            found += _file(job, gguf, model, truth, server, steps, versions)
    if server is not None and job.registered:
        versions.append(f"ollama {server.version}")
    return Verified(
        verdict=Verdict(checks=found.checks, versions=tuple(dict.fromkeys(versions))),
        evidence=Evidence(
            subject=_subject(job),
            matrix=found.matrix,
            tokenizer=found.tokenizer,
            distances=found.distances,
            positions=found.positions,
            answers=found.answers,
        ),
    )


def _subject(job: VerifyJob) -> Subject:
    return Subject(
        name=job.ggufs[0].path.stem.rpartition("-")[0],
        base=job.base.name,
        adapter=" + ".join(map(folder_name, job.adapter.folders)) if job.adapter is not None else None,
        architecture=job.base.architecture,
        template_source=job.template.source,
        template_sha256=job.template.original_sha256,
        pins=job.template.pins,
        stops=job.template.stops,
        inputs=tuple(f"{file.name} {file.sha256} {file.size_bytes}" for file in job.inputs),
    )


def _file(
    job: VerifyJob,
    gguf: Gguf,
    registered: Registered | None,
    truth: Truth,
    server: OllamaServer | None,
    steps: Steps,
    versions: list[str],
) -> Findings:
    """Compare one file: as bytes, embedded, and as Ollama serves it, with the file open once for both."""
    from packager.engines.llama_cpp import Embedded

    structure = check_structure(gguf, base=fine_tuned(job.base, job.adapter), template=job.template)
    if not structure.whole:  # llama.cpp may crash on a damaged file
        reason = "the file is damaged"
        unmade = [_not_checked(gguf.quant, name, "all", reason) for name in ("llama.cpp", "ollama")]
        return Findings(checks=(structure.check, *unmade))
    # Twice what the reference needs: a wrong template may build longer prompts, and is to be compared, not cut short.
    context_tokens = -(-2 * truth.longest_tokens // _CONTEXT_STEP) * _CONTEXT_STEP
    gates = job.gates.of(gguf.quant)
    with Embedded(gguf.path, context_tokens=context_tokens, stops=job.template.stops) as engine:
        embedded = _embedded(engine, gguf, truth, gates, steps, versions)
        served = _served(engine, gguf, registered, server, truth, gates, steps)
    return Findings(checks=(structure.check,)) + embedded + served


def _embedded(
    engine: Embedded, gguf: Gguf, truth: Truth, gates: QuantGates, steps: Steps, versions: list[str]
) -> Findings:
    from packager.parity.embedded import embedded_findings

    try:
        versions.append(f"llama-cpp-python {engine.version()}")
        return embedded_findings(engine, gguf.quant, truth, gates, steps)
    except ToolMissing as error:
        return Findings(checks=(_not_checked(gguf.quant, engine.name, "all", error.message),))
    except InputInvalid as error:
        return Findings(checks=(_failed(gguf.quant, engine.name, "all", error.message),))


def _served(
    engine: Embedded,
    gguf: Gguf,
    registered: Registered | None,
    server: OllamaServer | None,
    truth: Truth,
    gates: QuantGates,
    steps: Steps,
) -> Findings:
    if server is None:
        return Findings(checks=(_not_checked(gguf.quant, "ollama", "all", "no Ollama answered"),))
    if registered is None:
        return Findings(checks=(_not_checked(gguf.quant, "ollama", "all", "not registered"),))
    from packager.engines.ollama import OllamaEngine
    from packager.parity.served import served_findings

    try:
        return served_findings(OllamaEngine(server, registered.name), registered, engine, truth, gates, steps)
    except (OllamaFailed, InputInvalid) as error:
        return Findings(checks=(_failed(gguf.quant, "ollama", "all", error.message),))


def _not_checked(quant: Quant, engine: str, name: str, reason: str) -> Check:
    return Check(subject=quant.value, engine=engine, name=name, outcome=Outcome.NOT_CHECKED, detail=reason)


def _failed(quant: Quant, engine: str, name: str, reason: str) -> Check:
    return Check(subject=quant.value, engine=engine, name=name, outcome=Outcome.FAILED, detail=reason)
