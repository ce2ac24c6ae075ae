"""What a doctor says: what is at fault, what was looked at and is healthy, and what could not be looked at."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Organ(StrEnum):
    """What can be at fault, in the order of an examination."""

    BLOB = "blob"
    WEIGHTS = "weights"
    ARCHITECTURE = "architecture"
    VOCABULARY = "vocabulary"
    TOKENIZER = "tokenizer"
    TEMPLATE = "template"
    SYSTEM = "default system prompt"
    BOS = "BOS"
    STOP = "stop"
    CONTEXT = "context"
    SAMPLING = "sampling"
    QUANTIZATION = "quantization"


class Severity(StrEnum):
    """What a fault costs, the most first: it is another model, answers get worse, or now and then."""

    CRITICAL = "critical"
    SERIOUS = "serious"
    MINOR = "minor"


class Remedy(StrEnum):
    """What mends a fault: other instructions for the same weights, or other weights."""

    MODELFILE = "modelfile"
    REBUILD = "rebuild"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One fault.

    Attributes:
        code: Its name (docs/doctor.md).
        organ: What is at fault.
        severity: How bad it is.
        what: Both values, in one line.
        cost: What it does to answers, in one line, measured where it can be.
        affected: The share of what was compared that is affected, 0 to 1; 1 where nothing was counted.
        remedy: What mends it.
        mend: The command that does; empty until it is prescribed.
    """

    code: str
    organ: Organ
    severity: Severity
    what: str
    cost: str
    affected: float = 1.0
    remedy: Remedy = Remedy.REBUILD
    mend: str = ""


@dataclass(frozen=True, kw_only=True)
class Healthy:
    """An organ that was looked at, with what was seen."""

    organ: Organ
    what: str


@dataclass(frozen=True, kw_only=True)
class NotChecked:
    """An organ that was not looked at, or not fully: why, and what would change that (a command, or empty)."""

    organ: Organ
    why: str
    how: str = ""


@dataclass(frozen=True, kw_only=True)
class Examined:
    """What the examination of one organ, or of several, gave."""

    findings: tuple[Finding, ...] = ()
    healthy: tuple[Healthy, ...] = ()
    not_checked: tuple[NotChecked, ...] = ()

    def __add__(self, other: Examined) -> Examined:
        return Examined(
            findings=self.findings + other.findings,
            healthy=self.healthy + other.healthy,
            not_checked=self.not_checked + other.not_checked,
        )


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Everything about one model.

    Attributes:
        model: Its name in Ollama, or the GGUF file's.
        reference: What it was compared with: base and adapter.
        versions: `name version` lines of what was asked.
        findings: The faults, the dearest first.
        healthy: What was looked at and is as it should be.
        not_checked: What was not looked at.
        modelfile: Text of the Modelfile that mends what a Modelfile can mend; None where there is nothing for it.
        written: Where that was written, None where it was not.
    """

    model: str
    reference: str
    versions: tuple[str, ...]
    findings: tuple[Finding, ...]
    healthy: tuple[Healthy, ...]
    not_checked: tuple[NotChecked, ...]
    modelfile: str | None = None
    written: Path | None = None


def by_cost(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Sort faults: by severity, then by how much is affected, then in the order of an examination."""
    severities, organs = list(Severity), list(Organ)
    return tuple(
        sorted(findings, key=lambda f: (severities.index(f.severity), -f.affected, organs.index(f.organ), f.code))
    )
