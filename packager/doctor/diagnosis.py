"""The examination in its order: what is cheap first, what is heavy only where nothing makes it pointless."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from packager.artifacts import Conversation
from packager.doctor.architecture import examine_architecture, is_another_model
from packager.doctor.blob import examine_blob
from packager.doctor.bos import examine_bos
from packager.doctor.case import Patient, Reference, read_patient, read_reference
from packager.doctor.context import examine_context
from packager.doctor.finding import Diagnosis, Examined, Finding, NotChecked, Organ, Remedy, Severity, by_cost
from packager.doctor.mending import Case, prescribe
from packager.doctor.prompts import Prompts, gather
from packager.doctor.quantization import examine_quantization
from packager.doctor.sampling import examine_sampling
from packager.doctor.stops import examine_stops
from packager.doctor.system import examine_system
from packager.doctor.template import examine_template
from packager.doctor.vocabulary import examine_vocabulary
from packager.doctor.weights import examine_weights
from packager.durable import disk_errors
from packager.engines.tokenizer import TokenizerReference
from packager.events import Emit
from packager.formats.build_folder import MODELFILE_NAME
from packager.formats.fine_tuned import tokenizer_folder
from packager.formats.gguf import MetadataEntry
from packager.formats.text_file import write_text

_ANOTHER = "it is another model"
_CUT = "the vocabulary is at fault first"
_OF_PROMPTS = (Organ.TEMPLATE, Organ.SYSTEM, Organ.BOS, Organ.STOP)
_OF_THE_MODEL = (Organ.ARCHITECTURE, Organ.VOCABULARY, Organ.TOKENIZER, *_OF_PROMPTS)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to examine.

    Attributes:
        model: A name in Ollama, or a `.gguf` file.
        base: The base it should be made from.
        adapter: The adapter it should hold, None for the base alone.
        template_file: The template it was trained with, as typed behind `--template`.
        conversations: The user's own, whose length the context is compared with.
        output: Where the fixed Modelfile goes, None to write nothing.
    """

    model: str
    base: Path
    adapter: Path | None
    template_file: str | None
    conversations: tuple[Conversation, ...] = ()
    output: Path | None = None


def diagnose(request: Request, *, emit: Emit) -> Diagnosis:
    """Examine a model, organ by organ; writes at most the fixed Modelfile, and nothing to Ollama.

    Raises:
        PackagerError: As `packager plan` raises it for base and adapter, and as Ollama fails.
    """
    patient = read_patient(request.model, emit)
    reference = read_reference(request.base, request.adapter, request.template_file, emit=emit)
    return examine(patient, reference, conversations=request.conversations, output=request.output, emit=emit)


def examine(
    patient: Patient,
    reference: Reference,
    *,
    conversations: tuple[Conversation, ...] = (),
    output: Path | None = None,
    emit: Emit,
) -> Diagnosis:
    """Examine what was read already; the rest of `diagnose`."""
    lengths = _lengths(conversations, reference)
    with tempfile.TemporaryDirectory(prefix="packager-") as scratch:
        examined, prompts = _organs(patient, reference, lengths, Path(scratch), emit)
    case = Case(findings=examined.findings, patient=patient, reference=reference, prompts=prompts, lengths=lengths)
    done = prescribe(case, output)
    written = None
    if output is not None and done.modelfile is not None:
        with disk_errors(output):
            output.mkdir(parents=True, exist_ok=True)
        written = write_text(output / MODELFILE_NAME, done.modelfile)
    return Diagnosis(
        model=patient.name,
        reference=reference.title,
        versions=() if patient.server is None else (f"Ollama {patient.server.version}",),
        findings=by_cost(done.findings),
        healthy=examined.healthy,
        not_checked=examined.not_checked,
        modelfile=done.modelfile,
        written=written,
    )


def _organs(
    patient: Patient, reference: Reference, lengths: tuple[int, ...], scratch: Path, emit: Emit
) -> tuple[Examined, Prompts | None]:
    examined = examine_blob(patient, emit)
    if patient.damage:
        return examined, None
    another = is_another_model(patient, reference)
    prompts = None
    if another is not None:
        skipped = tuple(NotChecked(organ=organ, why=_ANOTHER) for organ in _OF_THE_MODEL)
        examined += Examined(findings=(another,), not_checked=skipped)
    else:
        parts = examine_vocabulary(patient, reference, scratch)
        examined += examine_architecture(patient, reference) + parts
        if any(finding.organ is Organ.VOCABULARY for finding in parts.findings):
            skipped = tuple(NotChecked(organ=organ, why=_CUT) for organ in (Organ.WEIGHTS, *_OF_PROMPTS))
            examined += Examined(not_checked=skipped)
        else:
            examined += examine_weights(patient, reference, emit)
            found, prompts = _fed(patient, reference, examined, scratch, emit)
            examined += found
    examined += examine_context(patient, reference, lengths) + examine_sampling(patient, reference)
    return examined + examine_quantization(patient), prompts


def _fed(
    patient: Patient, reference: Reference, before: Examined, scratch: Path, emit: Emit
) -> tuple[Examined, Prompts]:
    prompts = gather(patient, reference, _vocabulary(patient, reference), scratch, emit)
    examined = _runs(prompts, before)
    examined += examine_template(patient, prompts) + examine_system(patient, prompts)
    examined += examine_bos(patient, reference, prompts) + examine_stops(patient, reference, prompts)
    return examined, prompts


def _vocabulary(patient: Patient, reference: Reference) -> tuple[MetadataEntry, ...] | None:
    """Give `tokenizer.*` of the model, or of the base where its own cannot be read from here: Ollama's count is the witness."""
    metadata = patient.header.metadata if patient.header is not None else reference.metadata
    return None if metadata is None else tuple(entry for entry in metadata if entry.key.startswith("tokenizer."))


def _runs(prompts: Prompts, examined: Examined) -> Examined:
    """Say that Ollama cannot run the model, unless the cause is known already."""
    causes = (Organ.BLOB, Organ.WEIGHTS, Organ.VOCABULARY, Organ.ARCHITECTURE)
    if not prompts.cannot_run or any(finding.organ in causes for finding in examined.findings):
        return Examined()
    found = Finding(
        code="CANNOT_RUN",
        organ=Organ.WEIGHTS,
        severity=Severity.CRITICAL,
        what=prompts.cannot_run,
        cost="there are no answers",
        remedy=Remedy.REBUILD,
    )
    return Examined(findings=(found,))


def _lengths(conversations: tuple[Conversation, ...], reference: Reference) -> tuple[int, ...]:
    """Give the length of each of the user's conversations in tokens."""
    if not conversations:
        return ()
    with TokenizerReference(
        tokenizer_folder(reference.base, reference.adapter), reference.found.template.text
    ) as tokenizer:
        found = [tokenizer.tokens(conversation) for conversation in conversations]
    return tuple(len(ids) for ids in found if isinstance(ids, tuple))
