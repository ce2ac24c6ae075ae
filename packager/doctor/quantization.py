"""How the weights are stored, against what the name promises and what a model of this size can bear."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path

from packager.doctor.case import Patient
from packager.doctor.finding import Examined, Finding, Healthy, NotChecked, Organ, Severity
from packager.formats.gguf import GgufHeader
from packager.formats.model_name import ModelName
from packager.quants import FLOATS, MAY_BE_Q8_0, quant_of_file_type

_ALIASES = {"fp16": "f16", "fp32": "f32"}
_PROMISE = re.compile(
    r"(?<![a-z0-9])(iq[1-4]_(?:xxs|xs|s|m|nl)|q[2-8]_(?:k(?:_(?:xl|[sml]))?|[01])|(?:f|fp|bf)(?:16|32))(?![a-z0-9_])"
)
# Names of mixtures whose header says another one of the family: q4_k is an old name of q4_k_m, q6_k_l and q4_k_xl have none.
_LOOSE = re.compile(r"(q[2-8]_k)(?:_x?l)?")
_PURE = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0")
# Below this a model of up to 3 billion weights is known to fall apart; 4 bits cost SmolLM2-135M 0.05 to 0.14 nats of KL.
# Source: docs/gates.md, q4_k_m.
_LEAST_BITS, _SMALL_WEIGHTS = 3.9, 3_000_000_000


def examine_quantization(patient: Patient) -> Examined:
    """Compare the type that the name promises, the one that the header says and the ones that the tensors have."""
    number = patient.value("general.file_type")
    quant = quant_of_file_type(number)
    if quant is None:
        why = f"general.file_type is {number}, which is not known here"
        return Examined(not_checked=(NotChecked(organ=Organ.QUANTIZATION, why=why),))
    said = quant.value
    findings, what = [], said
    promised = _promised(patient)
    if promised is not None and not promise_kept(promised, said):
        findings.append(_label(patient, promised, said))
    if patient.header is not None:
        main, share, bits = _held(patient.header)
        what += f", {bits:.1f} bits a weight, {share:.0%} of the blocks' weights are {main}"
        if not _fits(said, main, patient.header):
            findings.append(_mislabelled(said, main, share))
        count = sum(math.prod(tensor.shape) for tensor in patient.header.tensors)
        if bits < _LEAST_BITS and count < _SMALL_WEIGHTS:
            findings.append(_too_few(bits, count))
    if findings:
        return Examined(findings=tuple(findings))
    what += f", as {patient.name} promises" if promised else ""
    return Examined(healthy=(Healthy(organ=Organ.QUANTIZATION, what=what),))


def promise_kept(promised: str, said: str) -> bool:
    """Whether a file that says it is of type `said` is what its name promises."""
    loose = _LOOSE.fullmatch(promised)
    return said.startswith(loose[1]) if loose else promised == said


def _promised(patient: Patient) -> str | None:
    """Give the type in the tag, or in the name of the file; the last one, as file names have it at their end."""
    name = patient.name
    text = ModelName.parse(name).tag if patient.stored is not None else Path(name).stem
    found = _PROMISE.findall(text.lower())
    return _ALIASES.get(found[-1], found[-1]) if found else None


def _held(header: GgufHeader) -> tuple[str, float, float]:
    """Give the type of most weights of the blocks' matrices, its share, and the mean of bits for a weight of all matrices.

    Embedding and output have types of their own in most mixtures, and in a small model most of the weights.
    """
    matrices = [tensor for tensor in header.tensors if len(tensor.shape) > 1]
    sizes: Counter[str] = Counter()
    for tensor in matrices:
        if tensor.name.startswith("blk."):
            sizes[tensor.type.name.lower()] += math.prod(tensor.shape)
    if not sizes:
        return "f32", 1.0, 32.0
    main, count = sizes.most_common(1)[0]
    bits = 8 * sum(tensor.size_bytes for tensor in matrices) / sum(math.prod(tensor.shape) for tensor in matrices)
    return main, count / sum(sizes.values()), bits


def _fits(said: str, main: str, header: GgufHeader) -> bool:
    """Whether the weights can be those of such a file; in mixtures most may be of a neighbour, where rows do not divide."""
    if said in FLOATS or main in FLOATS:
        return said in FLOATS and main in FLOATS
    if said in MAY_BE_Q8_0 and main == "q8_0":
        return True
    if said in _PURE:
        return said == main
    return any(tensor.type.name.lower() not in (*FLOATS, "q8_0") for tensor in header.tensors)


def _label(patient: Patient, promised: str, said: str) -> Finding:
    fewer = _bits(said) < _bits(promised)
    return Finding(
        code="QUANT_LABEL",
        organ=Organ.QUANTIZATION,
        severity=Severity.SERIOUS if fewer else Severity.MINOR,
        what=f"{patient.name} promises {promised}, and the file holds {said}",
        cost="answers are worse than whoever chose by the name expects"
        if fewer
        else "it takes more memory than it says",
    )


def _mislabelled(said: str, main: str, share: float) -> Finding:
    return Finding(
        code="QUANT_MISLABELLED",
        organ=Organ.QUANTIZATION,
        severity=Severity.SERIOUS,
        what=f"general.file_type says {said}, and {share:.0%} of the blocks' weights are {main}",
        cost="answers are those of the type that the weights have, whatever tools show",
    )


def _too_few(bits: float, count: int) -> Finding:
    return Finding(
        code="QUANT_TOO_SMALL",
        organ=Organ.QUANTIZATION,
        severity=Severity.SERIOUS,
        what=f"{bits:.1f} bits a weight in a model of {count / 1e6:.0f} million weights",
        cost="small models lose most: below 4 bits one of this size is known to fall apart",
    )


def _bits(name: str) -> float:
    """Give the nominal bits of a type: the digits of its name."""
    match = re.search(r"[0-9]+", name)
    return float(match[0]) if match else 32.0
