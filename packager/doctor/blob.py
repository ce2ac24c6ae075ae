"""The file itself: its bytes against its digest, and a header that fits it."""

from __future__ import annotations

from packager.doctor.case import Patient
from packager.doctor.finding import Examined, Finding, Healthy, NotChecked, Organ, Severity
from packager.durable import sha256_file
from packager.events import Emit

_STAGE = "doctor"
_COST = "what is damaged cannot be told from the outside: answers may be garbage, and Ollama never looks"


def examine_blob(patient: Patient, emit: Emit) -> Examined:
    """Read the weights' file once and compare its sha256 with its name in the store, which Ollama does on a pull only."""
    if patient.file is None:
        return Examined(not_checked=(NotChecked(organ=Organ.BLOB, why=patient.no_file),))
    findings = []
    if patient.damage:
        findings.append(_finding("GGUF_DAMAGED", f"its header: {patient.damage}", "no engine can load it"))
    if patient.stored is None:
        healthy = () if findings else (Healthy(organ=Organ.BLOB, what="the header fits the file"),)
        return Examined(findings=tuple(findings), healthy=healthy)
    recorded = patient.stored.blob_sha256
    found = sha256_file(patient.file, emit=emit, stage=_STAGE)
    if found != recorded:
        what = f"sha256 of the blob in the store is {found[:12]}…, its name says {recorded[:12]}…"
        findings.insert(0, _finding("BLOB_CORRUPT", what, _COST))
    healthy = () if findings else (Healthy(organ=Organ.BLOB, what=f"sha256 {recorded[:12]}…, as its name says"),)
    return Examined(findings=tuple(findings), healthy=healthy)


def _finding(code: str, what: str, cost: str) -> Finding:
    return Finding(code=code, organ=Organ.BLOB, severity=Severity.CRITICAL, what=what, cost=cost)
