"""The examination in its order: what is cheap first, what is heavy only where nothing makes it pointless."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
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
from packager.doctor.vocabulary import examine_vocabulary, usable_vocabulary
from packager.doctor.weights import examine_weights
from packager.engines.tokenizer import TokenizerReference
from packager.errors import PackagerError
from packager.events import Emit
from packager.formats.build_folder import MODELFILE_NAME
from packager.formats.gguf import MetadataEntry
from packager.formats.text_file import write_text
from packager.sources.llama_cpp_tree import find_tree
from packager.weights.vocabulary import VocabularyReader

_ANOTHER = "it is another model"
_AFTER_BASE = (Organ.WEIGHTS, Organ.ARCHITECTURE, Organ.VOCABULARY, Organ.TOKENIZER)


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
    reference = read_reference(request.base, request.adapter, request.template_file)
    with tempfile.TemporaryDirectory(prefix="packager-") as scratch:
        examined, case = _examine(patient, reference, request, Path(scratch), emit)
    done = prescribe(case, request.output)
    written = None
    if request.output is not None and done.modelfile is not None:
        request.output.mkdir(parents=True, exist_ok=True)
        written = write_text(request.output / MODELFILE_NAME, done.modelfile)
    server = () if patient.server is None else (f"Ollama {patient.server.version}",)
    return Diagnosis(
        model=patient.name,
        reference=reference.title,
        versions=server,
        findings=by_cost(done.findings),
        healthy=examined.healthy,
        not_checked=examined.not_checked,
        modelfile=done.modelfile,
        written=written,
    )


def _examine(
    patient: Patient, reference: Reference, request: Request, scratch: Path, emit: Emit
) -> tuple[Examined, Case]:
    expected, missing = _converted(reference, emit)
    examined = examine_blob(patient, emit)
    if patient.damage:
        return examined, Case(findings=examined.findings, patient=patient, reference=reference)
    another = is_another_model(patient, reference, expected)
    if another is not None:
        skipped = tuple(NotChecked(organ=organ, why=_ANOTHER) for organ in _AFTER_BASE[1:])
        examined += Examined(findings=(another,), not_checked=skipped)
        vocabulary = None
    else:
        parts = examine_vocabulary(patient, reference, expected, missing, scratch)
        examined += examine_architecture(patient, reference, expected, missing) + parts
        vocabulary = usable_vocabulary(patient, parts)
        examined += examine_weights(patient, reference, examined, emit)
    prompts = gather(patient, reference, vocabulary or _without_file(patient, expected), scratch, emit)
    examined += _runs(prompts, examined)
    examined += examine_template(patient, prompts) + examine_system(patient, prompts)
    examined += examine_bos(patient, reference, prompts) + examine_stops(patient, reference, prompts)
    lengths = _lengths(request, reference)
    examined += examine_context(patient, reference, lengths)
    examined += examine_sampling(patient, reference) + examine_quantization(patient)
    case = Case(
        findings=examined.findings,
        patient=patient,
        reference=reference,
        own_template=prompts.own_template,
        lengths=lengths,
    )
    return examined, case


def _converted(reference: Reference, emit: Emit) -> tuple[tuple[MetadataEntry, ...] | None, str]:
    """Give what llama.cpp's converter writes for the base, or why it could not be asked."""
    try:
        with ExitStack() as stack:
            tree = find_tree(None, emit=emit)
            reader = stack.enter_context(VocabularyReader(reference.base.folder, tree))
            return reader.read_with_parameters(), ""
    except PackagerError as error:
        return None, error.message + (f" ({error.hint})" if error.hint else "")


def _without_file(patient: Patient, expected: tuple[MetadataEntry, ...] | None) -> tuple[MetadataEntry, ...] | None:
    """Give the base's vocabulary for a model whose own cannot be read from here; Ollama's count is its witness."""
    if patient.header is not None or expected is None:
        return None
    return tuple(entry for entry in expected if entry.key.startswith("tokenizer."))


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


def _lengths(request: Request, reference: Reference) -> tuple[int, ...]:
    """Give the length of each of the user's conversations in tokens, none where there is no tokenizer."""
    if not request.conversations:
        return ()
    with TokenizerReference(reference.base.folder, reference.found.template.text) as tokenizer:
        found = [tokenizer.tokens(conversation) for conversation in request.conversations]
    return tuple(len(ids) for ids in found if isinstance(ids, tuple))
