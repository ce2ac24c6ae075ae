"""One GGUF file: its chat template, its tokenizer, its tensors and the rest of its metadata."""

from __future__ import annotations

from dataclasses import dataclass

from packager.artifacts import ChatTemplate, Check, Gguf, Measure, Outcome, Quant, Verdict
from packager.blame.tensors import WORST, tensor_fault, unread_tensors
from packager.errors import InputInvalid
from packager.events import Emit
from packager.evidence import CharacterClass, Stage, StageFinding
from packager.formats.gguf import GgufHeader, MetadataEntry, read_gguf
from packager.parity.differences import text_difference
from packager.parity.metadata import KeyDifference, metadata_differences
from packager.weights.tensor_errors import MergedModel, TensorComparison

_NAMES = ("the build's", "its")
_KEYS = 3


@dataclass(frozen=True, kw_only=True)
class ReadFile:
    """A file as far as it could be read and compared; `problem` says why not further."""

    gguf: Gguf
    header: GgufHeader | None
    tensors: TensorComparison | None
    problem: str = ""


def read_file(gguf: Gguf, model: MergedModel | None, problem: str, *, emit: Emit) -> ReadFile:
    """Read a file's header and compare its tensors; what is wrong with the file is told, not raised.

    Args:
        gguf: The file.
        model: The weights it should hold; None where there are none to compare with.
        problem: Why there are none.
        emit: Told which tensors are compared.
    """
    header = None
    try:
        header = read_gguf(gguf.path)
        tensors = model.compare(gguf.path, header=header, emit=emit) if model is not None else None
    except InputInvalid as error:
        return ReadFile(gguf=gguf, header=header, tensors=None, problem=error.message.removeprefix(f"{gguf.path}: "))
    return ReadFile(gguf=gguf, header=header, tensors=tensors, problem=problem)


def template_finding(file: ReadFile, template: ChatTemplate) -> StageFinding:
    """Compare the file's chat template with the build's, character by character."""
    if file.header is None:
        return _found(Stage.TEMPLATE, file, Outcome.NOT_CHECKED, file.problem)
    there = file.header.value("tokenizer.chat_template")
    if not isinstance(there, str):
        return _found(Stage.TEMPLATE, file, Outcome.FAILED, "there is no chat template in it")
    if there in [each.text for each in template.for_gguf]:
        return _found(Stage.TEMPLATE, file, Outcome.PASSED, "the build's")
    difference = text_difference(template.text, there, _NAMES)
    return _found(Stage.TEMPLATE, file, Outcome.FAILED, f"not the build's: {difference}")


def tokenizer_finding(
    file: ReadFile, differences: tuple[KeyDifference, ...] | None, classes: tuple[CharacterClass, ...]
) -> StageFinding:
    """Compare the file's vocabulary, merges and special tokens with the base's.

    Args:
        file: The file.
        differences: Of its metadata; None where that could not be compared.
        classes: Which random texts became other tokens, for what the difference means.
    """
    if differences is None:
        return _found(Stage.TOKENIZER, file, Outcome.NOT_CHECKED, file.problem)
    said = [difference.text for difference in differences if difference.is_tokenizer]
    if not said:
        return _found(Stage.TOKENIZER, file, Outcome.PASSED, "vocabulary and special tokens are the base's")
    changed = [f"{each.name} ({each.example})" for each in classes if each.differing and not each.code]
    means = f"; other tokens for {', '.join(changed[:_KEYS])}" if changed else ""
    return _found(Stage.TOKENIZER, file, Outcome.FAILED, _first(said) + means)


def file_finding(
    file: ReadFile, differences: tuple[KeyDifference, ...] | None, verdict: Verdict, rounding: str
) -> StageFinding:
    """Compare the file's tensors and what its header says of the model; the bytes' digest comes from the verdict.

    Args:
        file: The file.
        differences: Of its metadata; None where that could not be compared.
        verdict: Its check of the file's structure is used.
        rounding: Why rounding alone is to blame, empty where it is not; holds only where nothing else is wrong.
    """
    stage = Stage.F16 if file.gguf.quant is Quant.F16 else Stage.QUANT
    said = [tensor_fault(file.tensors)] if file.tensors is not None else []
    said.append(_first([each.text for each in differences or () if not each.is_tokenizer]))
    said.append(_structure_fault(verdict, file.gguf.quant))
    said = [text for text in said if text]
    unread = unread_tensors(file.tensors) if file.tensors is not None else ""
    compared = file.tensors is not None and not unread
    if said or (rounding and compared):
        return _found(stage, file, Outcome.FAILED, "; ".join(said) or rounding)
    if file.tensors is None or unread:
        return _found(stage, file, Outcome.NOT_CHECKED, file.problem or unread)
    return _found(stage, file, Outcome.PASSED, f"{len(file.tensors.tensors)} tensors are as llama.cpp rounds them")


def tensors_check(file: ReadFile) -> Check:
    """Make the verdict's line of a file's tensors: failed where one is not what rounding makes of the merged weights."""
    found = file.tensors
    measures: tuple[Measure, ...] = ()
    if found is None:
        outcome, detail = Outcome.NOT_CHECKED, file.problem
    elif fault := tensor_fault(found):
        outcome, detail = Outcome.FAILED, fault
    elif unread := unread_tensors(found):
        outcome, detail = Outcome.NOT_CHECKED, unread
    else:
        worst = max(found.tensors, key=lambda tensor: tensor.relative_error)
        outcome = Outcome.PASSED
        detail = f"{len(found.tensors)} as llama.cpp rounds them; most in {worst.tensor}, {worst.relative_error:.2g}"
        measures = (Measure(name="largest relative error", value=worst.relative_error, unit=""),)
    return Check(
        subject=file.gguf.quant.value, engine="file", name="tensors", outcome=outcome, detail=detail, measures=measures
    )


def metadata_of(file: ReadFile, expected: tuple[MetadataEntry, ...]) -> tuple[KeyDifference, ...] | None:
    """Compare a file's metadata; None where one of the two sides is not known."""
    return metadata_differences(expected, file.header) if expected and file.header is not None else None


def _structure_fault(verdict: Verdict, quant: Quant) -> str:
    """Give what is wrong with the file as a file, unless it is its template, a stage of its own."""
    checks = [each for each in verdict.checks if (each.subject, each.name) == (quant.value, "structure")]
    failed = [check.detail for check in checks if check.outcome is Outcome.FAILED]
    return failed[0] if failed and "chat template" not in failed[0] else ""


def _first(texts: list[str]) -> str:
    more = f", and {len(texts) - _KEYS} more keys" if len(texts) > _KEYS else ""
    return "; ".join(texts[:_KEYS]) + more


def _found(stage: Stage, file: ReadFile, outcome: Outcome, detail: str) -> StageFinding:
    worst = file.tensors.worst[:WORST] if file.tensors is not None and stage in (Stage.F16, Stage.QUANT) else ()
    return StageFinding(stage=stage, subject=file.gguf.quant.value, outcome=outcome, detail=detail, worst=worst)
