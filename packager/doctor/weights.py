"""The weights, tensor by tensor, against base + adapter merged: another base, a missing adapter, a wrong scale, a bad block."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from packager.doctor.case import Patient, Reference
from packager.doctor.finding import Examined, Finding, Healthy, NotChecked, Organ, Severity
from packager.errors import PackagerError
from packager.events import Emit
from packager.sources.llama_cpp_tree import find_tree

if TYPE_CHECKING:
    from packager.weights.tensor_errors import TensorComparison

# What `tensor_faults.fault_text` says of an update.
_MISSING = "the adapter's update is missing"
_TIMES = re.compile(r"the adapter's update is there (-?[0-9.]+) times")
_ROWS = re.compile(r"its rows are .*permuted.*")
_MOST = 0.5  # of the matrices: a disk damages a few, another model or a second rounding nearly all
_ANOTHER = 0.3  # relative error; 4-bit rounding has about 0.1, unrelated weights 1.4
_SHOWN = 3


def examine_weights(patient: Patient, reference: Reference, emit: Emit) -> Examined:
    """Compare every tensor of the file with the merged one; needs torch and the converter."""
    if patient.file is None:
        return _not_checked(patient.no_file)
    if patient.stored is not None and patient.stored.adapted:
        return _not_checked("the model adds an ADAPTER while it runs: what is in the file is the base alone")
    try:
        compared = _compared(patient.file, reference, emit)
    except ModuleNotFoundError as error:
        return _not_checked(f"this needs {error.name}", "pip install 'ollama-packager[build]'")
    except PackagerError as error:
        return _not_checked(error.message, error.hint)
    return examined_weights(compared, reference)


def _compared(file: Path, reference: Reference, emit: Emit) -> TensorComparison:
    from packager.weights.tensor_errors import tensor_errors

    return tensor_errors(file, reference.base, reference.adapter, find_tree(None, emit=emit), emit=emit)


def examined_weights(compared: TensorComparison, reference: Reference) -> Examined:
    """Say what a comparison means; tensors that could not be compared are not healthy."""
    from packager.blame.tensors import unread_tensors

    findings = [*_lists(compared), *_faults(compared, reference)]
    unread = _not_checked(unread_tensors(compared)).not_checked if compared.unread else ()
    if findings or unread:
        return Examined(findings=tuple(findings), not_checked=unread)
    worst = max((tensor.relative_error for tensor in compared.tensors), default=0.0)
    what = (
        f"{len(compared.tensors)} tensors of {reference.title}, none further off than by rounding (at most {worst:.2g})"
    )
    return Examined(healthy=(Healthy(organ=Organ.WEIGHTS, what=what),))


def _lists(compared: TensorComparison) -> list[Finding]:
    """Find tensors that are missing, too many, or of another shape."""
    wrong = (
        ("TENSORS_MISSING", compared.missing, "missing"),
        ("TENSORS_UNEXPECTED", compared.unexpected, "not the base's"),
        ("TENSORS_RESHAPED", compared.reshaped, "of another shape"),
    )
    return [
        _finding(
            code,
            f"{len(names)} tensors are {word}: {_shown(names)}",
            "the model computes something else, or does not load",
        )
        for code, names, word in wrong
        if names
    ]


def _faults(compared: TensorComparison, reference: Reference) -> list[Finding]:
    texts = {fault.tensor: fault.text for fault in compared.faults}
    errors = {tensor.tensor: tensor.relative_error for tensor in compared.tensors}
    missing = [name for name, text in texts.items() if text == _MISSING]
    scaled = {name: float(match[1]) for name, text in texts.items() if (match := _TIMES.fullmatch(text))}
    turned = [name for name, text in texts.items() if _ROWS.fullmatch(text)]
    rest = [name for name in texts if name not in {*missing, *scaled, *turned}]
    updated = len(reference.adapter.targets) if reference.adapter is not None else 0
    findings = []
    if missing:
        name = reference.adapter.name if reference.adapter is not None else ""
        what = f"the update of {name} is missing in {len(missing)} of the {updated} tensors that it changes"
        findings.append(
            _finding("ADAPTER_MISSING", what, "answers are the base's where it was fine-tuned", missing, updated)
        )
    if scaled:
        times = median(scaled.values())
        where = f"{len(scaled)} of the {updated} tensors that it changes"
        what = f"the adapter is merged {times:.2g} times in {where}; training had 1"
        cost = "answers are those of another fine-tune: alpha, rank or rsLoRA were read wrongly"
        findings.append(_finding("ADAPTER_SCALE", what, cost, scaled, updated))
    if turned:
        what = f"{len(turned)} tensors have their rows in another order: {_shown(turned)}"
        findings.append(_finding("ROWS_PERMUTED", what, "attention rotates the wrong rows: answers are garbage"))
    if rest:
        findings.append(_rest(rest, texts, errors, reference))
    return findings


def _rest(names: list[str], texts: dict[str, str], errors: dict[str, float], reference: Reference) -> Finding:
    """Tell another model's weights from weights that were rounded twice, and both from a few that are damaged."""
    error = median(errors[name] for name in names)
    count = f"{len(names)} of {len(errors)} tensors are further from {reference.title} than rounding explains"
    matrices = [name for name in errors if not name.endswith("norm.weight")]
    if len(names) < _MOST * len(matrices):
        what = "; ".join(f"{name}: {texts[name]}" for name in names[:_SHOWN])
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        return _finding(
            "TENSOR_DAMAGED", what + more, "whatever passes through these rows is noise", names, len(errors)
        )
    if error > _ANOTHER:
        what = f"{count}, relative error {error:.2g}"
        return _finding("OTHER_WEIGHTS", what, "every answer is another model's", names, len(errors))
    what = f"{count}, relative error {error:.2g}: they were rounded to a coarser type before"
    return _finding(
        "ROUNDED_TWICE",
        what,
        "answers are those of the coarser type, in a larger file",
        names,
        len(errors),
        Severity.SERIOUS,
    )


def _finding(
    code: str,
    what: str,
    cost: str,
    affected: list[str] | dict[str, float] | tuple[str, ...] = (),
    total: int = 0,
    severity: Severity = Severity.CRITICAL,
) -> Finding:
    share = min(1.0, len(affected) / total) if total else 1.0
    return Finding(code=code, organ=Organ.WEIGHTS, severity=severity, what=what, cost=cost, affected=share)


def _shown(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(names[:_SHOWN]) + (" ..." if len(names) > _SHOWN else "")


def _not_checked(why: str, how: str = "") -> Examined:
    return Examined(not_checked=(NotChecked(organ=Organ.WEIGHTS, why=why, how=how),))
