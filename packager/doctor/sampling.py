"""How answers are drawn: the stored parameters against the base's generation_config.json."""

from __future__ import annotations

import math

from packager.artifacts import Sampling
from packager.doctor.case import Patient, Reference
from packager.doctor.finding import Examined, Finding, Healthy, NotChecked, Organ, Remedy, Severity
from packager.engines.ollama_server import at_least

# Name in Ollama, in generation_config.json, below general.sampling of a GGUF.
_NAMES = (
    ("temperature", "temperature", "temp"),
    ("top_k", "top_k", "top_k"),
    ("top_p", "top_p", "top_p"),
    ("min_p", "min_p", "min_p"),
    ("repeat_penalty", "repetition_penalty", "penalty_repeat"),
)
# What Ollama 0.34 draws with where nothing is said (api/types.go, DefaultOptions).
DEFAULTS = {"temperature": 0.8, "top_k": 40.0, "top_p": 0.9, "min_p": 0.0, "repeat_penalty": 1.0}
_READS_GGUF = (0, 34, 0)  # the first version that takes general.sampling.* of the GGUF
_TOLERANCE = 1e-4
_ENDLESS = (-1.0, -2.0)


def examine_sampling(patient: Patient, reference: Reference) -> Examined:
    """Compare every sampling value that the base's author recorded with the one that answers are drawn with."""
    if patient.stored is None or patient.server is None:
        why = "a file has no parameters; what it is registered with decides"
        return Examined(not_checked=(NotChecked(organ=Organ.SAMPLING, why=why),))
    stored = dict(patient.stored.parameters)
    reads_gguf = at_least(patient.server.version, _READS_GGUF)
    findings, recorded = [], 0
    for name, theirs, key in _NAMES:
        wanted = _recorded(reference.base.sampling, theirs)
        if wanted is None:
            continue
        recorded += 1
        values = stored.get(name, ())
        from_file = patient.value(f"general.sampling.{key}") if reads_gguf else None
        if values:
            found, where = float(values[0]), "PARAMETER"
        elif isinstance(from_file, int | float):
            found, where = float(from_file), "the GGUF's"
        else:
            found, where = DEFAULTS[name], "Ollama's own"
        if not math.isclose(found, wanted, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE):
            findings.append(_finding(name, theirs, found, wanted, where))
    limit = stored.get("num_predict", ())
    if limit and isinstance(limit[0], float) and limit[0] not in _ENDLESS:
        findings.append(_cut(int(limit[0])))
    if findings:
        return Examined(findings=tuple(findings))
    what = f"{recorded} values as in generation_config.json" if recorded else "generation_config.json asks for nothing"
    return Examined(healthy=(Healthy(organ=Organ.SAMPLING, what=what),))


def _finding(name: str, theirs: str, found: float, wanted: float, where: str) -> Finding:
    contradicts = where == "PARAMETER"
    return Finding(
        code="SAMPLING" if contradicts else "SAMPLING_LOST",
        organ=Organ.SAMPLING,
        severity=Severity.SERIOUS if contradicts else Severity.MINOR,
        what=f"{where} {name} is {found:g}; generation_config.json has {theirs} {wanted:g}",
        cost=_cost(name, found, wanted),
        remedy=Remedy.MODELFILE,
    )


def _cost(name: str, found: float, wanted: float) -> str:
    if name == "repeat_penalty":
        return "words that came before are avoided more or less than the author meant"
    wider = found < wanted if name == "min_p" else found > wanted
    return f"answers are drawn {'more' if wider else 'less'} freely than the author meant"


def _cut(tokens: int) -> Finding:
    return Finding(
        code="ANSWER_CUT",
        organ=Organ.SAMPLING,
        severity=Severity.SERIOUS,
        what=f"PARAMETER num_predict is {tokens}; nothing of the base limits an answer",
        cost=f"every answer ends after {tokens} tokens, finished or not",
        remedy=Remedy.MODELFILE,
    )


def _recorded(sampling: Sampling, name: str) -> float | None:
    value = getattr(sampling, name)
    return None if value is None else float(value)
