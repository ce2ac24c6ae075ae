"""What the GGUF says of its architecture, against what llama.cpp's converter writes for the base."""

from __future__ import annotations

import math

from packager.artifacts import Checkpoint
from packager.doctor.case import Patient, Reference
from packager.doctor.finding import Examined, Finding, Healthy, NotChecked, Organ, Severity
from packager.formats.fine_tuned import fine_tuned
from packager.formats.gguf import MetadataEntry, Scalar
from packager.parity.structure import block_fault, weight_fault

_ARCHITECTURE = "general.architecture"
# What makes it another model; every other number makes it a model that computes wrongly.
_SIZES = ("embedding_length", "block_count", "feed_forward_length")
_ELSEWHERE = ("vocab_size", "context_length")  # other organs look at these
_ROPE_BASE = "rope.freq_base"
_DEFAULTS: dict[str, float] = {_ROPE_BASE: 10000.0}  # llama.cpp's, for a key that is absent
_CODES = {
    _ROPE_BASE: "ROPE_BASE",
    "attention.layer_norm_rms_epsilon": "NORM_EPSILON",
    "attention.layer_norm_epsilon": "NORM_EPSILON",
    "attention.head_count": "HEAD_COUNT",
    "attention.head_count_kv": "HEAD_COUNT",
}
_COSTS = {
    "ROPE_BASE": "every position is rotated by another angle than in training: the longer the prompt, the worse",
    "NORM_EPSILON": "every layer normalises a little otherwise than in training",
    "HEAD_COUNT": "attention splits its rows into other heads than in training: answers are garbage",
}
_TOLERANCE = 1e-5  # of a float32 that was written as text on the way


def is_another_model(patient: Patient, reference: Reference) -> Finding | None:
    """Give the finding where architecture or sizes are another model's: nothing else is worth comparing then."""
    found = _sizes(patient)
    wanted = _expected_sizes(reference.base, reference.metadata)
    if all(found.get(key) in (None, value) for key, value in wanted.items()):
        return None
    return Finding(
        code="WRONG_BASE",
        organ=Organ.WEIGHTS,
        severity=Severity.CRITICAL,
        what=f"the model is {_listed(found, wanted)}; {reference.title} is {_listed(wanted, wanted)}",
        cost="every answer is another model's",
    )


def examine_architecture(patient: Patient, reference: Reference) -> Examined:
    """Compare every number of the architecture, and count blocks and weights."""
    examined, expected = _counted(patient, reference), reference.metadata
    if expected is None:
        return examined + Examined(not_checked=(NotChecked(organ=Organ.ARCHITECTURE, why=reference.no_metadata),))
    architecture = str(patient.value(_ARCHITECTURE))
    findings, compared = [], 0
    for entry in expected:
        name = entry.key.removeprefix(f"{architecture}.")
        if name == entry.key or name in (*_SIZES, *_ELSEWHERE) or not isinstance(entry.value, str | int | float):
            continue
        found = patient.value(entry.key)
        found = _DEFAULTS.get(name) if found is None else found
        if found is None:
            continue  # llama.cpp derives it from the others
        compared += 1
        if not _same(found, entry.value):
            findings.append(_finding(name, found, entry.value))
    findings += _scaled(patient, architecture, expected)
    if findings:
        return examined + Examined(findings=tuple(findings))
    what = f"{architecture}, {compared} numbers as the converter writes them for {reference.base.name}"
    return examined + Examined(healthy=(Healthy(organ=Organ.ARCHITECTURE, what=what),))


def _finding(name: str, found: Scalar, wanted: Scalar) -> Finding:
    code = _CODES.get(name, "HYPERPARAMETER")
    return Finding(
        code=code,
        organ=Organ.ARCHITECTURE,
        severity=Severity.SERIOUS,
        what=f"{name} is {_number(found)}; the base has {_number(wanted)}",
        cost=_COSTS.get(code, "the model computes otherwise than in training"),
    )


def _scaled(patient: Patient, architecture: str, expected: tuple[MetadataEntry, ...]) -> list[Finding]:
    """Find a scaling of positions that the base does not have."""
    name = "rope.scaling.factor"
    found = patient.value(f"{architecture}.{name}")
    wanted = {entry.key for entry in expected}
    if found is None or f"{architecture}.{name}" in wanted or found in (0, 1):
        return []
    return [_finding(name, found, "none")]


def _counted(patient: Patient, reference: Reference) -> Examined:
    header = patient.header
    if header is None:
        return Examined()
    rows = next((tensor.shape[0] for tensor in header.tensors if tensor.name == "token_embd.weight"), None)
    fault = block_fault(header, reference.base)
    if not fault and rows == fine_tuned(reference.base, reference.adapter).vocab_size:
        fault = weight_fault(header, fine_tuned(reference.base, reference.adapter))
    if not fault:
        return Examined()
    cost = "tensors are missing or stand twice: the model computes something else, or does not load"
    found = Finding(code="TENSORS_MISSING", organ=Organ.WEIGHTS, severity=Severity.CRITICAL, what=fault, cost=cost)
    return Examined(findings=(found,))


def _sizes(patient: Patient) -> dict[str, Scalar | None]:
    architecture = patient.value(_ARCHITECTURE)
    return {_ARCHITECTURE: architecture, **{name: patient.value(f"{architecture}.{name}") for name in _SIZES}}


def _expected_sizes(base: Checkpoint, expected: tuple[MetadataEntry, ...] | None) -> dict[str, Scalar | None]:
    """Give the converter's sizes; without it the width alone, which no converter changes."""
    if expected is None:
        return {"embedding_length": base.hidden_size}
    values = {entry.key: entry.value for entry in expected if isinstance(entry.value, str | int | float)}
    architecture = values.get(_ARCHITECTURE)
    sizes = {name: values.get(f"{architecture}.{name}") for name in _SIZES}
    return {_ARCHITECTURE: architecture, **{name: size for name, size in sizes.items() if size is not None}}


def _listed(sizes: dict[str, Scalar | None], names: dict[str, Scalar | None]) -> str:
    words = {_ARCHITECTURE: "", "embedding_length": " wide", "block_count": " blocks", "feed_forward_length": " inside"}
    return ", ".join(f"{sizes[name]}{words[name]}" for name in names if sizes.get(name) is not None)


def _same(found: Scalar, wanted: Scalar) -> bool:
    if isinstance(found, str) or isinstance(wanted, str):
        return found == wanted
    return math.isclose(found, wanted, rel_tol=_TOLERANCE)


def _number(value: Scalar) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
