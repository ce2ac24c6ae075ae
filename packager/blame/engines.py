"""What the checks of a verdict say of engines, once it is known whether the files are right.

Nothing is measured again. A quant whose tensors are what llama.cpp's kernel makes of the merged weights, and which is still
too far from the reference, is to blame itself where a more exact file of the same build is not: its type is too coarse for
this model. Where the most exact one is too far as well, the engine is.
"""

from __future__ import annotations

from packager.artifacts import Check, Outcome, Quant, Registered, Verdict
from packager.engines.ollama_replies import StoredModel
from packager.evidence import Stage, StageFinding

_DISTANCES = ("distribution", "prompt distribution", "first token", "answers")
_EMBEDDED, _SERVED = "llama.cpp", "ollama"


def rounding_fault(verdict: Verdict, quant: Quant) -> str:
    """Say that rounding alone takes a file with the right tensors too far; empty where it does not, or the engine does."""
    far = [check for check in _failed(verdict, quant, _EMBEDDED) if check.name in _DISTANCES]
    exacter = [each for each in list(Quant)[: list(Quant).index(quant)] if _judged(verdict, each)]
    near = [each.value for each in exacter if not _failed(verdict, each, _EMBEDDED)]
    if not far or quant in (Quant.F32, Quant.F16) or (exacter and not near):
        return ""
    why = f"{near[-1]} is near enough, so this type is too coarse" if near else "there is no more exact file to compare"
    return f"every tensor is as llama.cpp rounds it; {why}; {far[0].name}: {far[0].detail}"


def engine_finding(verdict: Verdict, quant: Quant, rounding: str) -> StageFinding:
    """Give what the embedded engine made of a file.

    Args:
        verdict: The checks.
        quant: The file's.
        rounding: What `rounding_fault` says; where it says something, distances are not the engine's.
    """
    failed = _failed(verdict, quant, _EMBEDDED)
    blamed = [check for check in failed if not (rounding and check.name in _DISTANCES)]
    return _finding(Stage.ENGINE, quant.value, _checks(verdict, quant, _EMBEDDED), blamed, ())


def registered_finding(
    verdict: Verdict, quant: Quant, registered: Registered | None, stored: StoredModel | None, stops: tuple[str, ...]
) -> StageFinding:
    """Give what Ollama stored of a file and makes of it.

    Args:
        verdict: The checks.
        quant: The file's.
        registered: What was registered, None when nothing was.
        stored: What Ollama says it is now, None when that could not be asked.
        stops: Texts that must end an answer.
    """
    faults = _stored_faults(registered, stored, stops) if registered is not None and stored is not None else ()
    subject = registered.name if registered is not None else quant.value
    checks = _checks(verdict, quant, _SERVED)
    return _finding(Stage.REGISTERED, subject, checks, _failed(verdict, quant, _SERVED), faults)


def _stored_faults(registered: Registered, stored: StoredModel, stops: tuple[str, ...]) -> tuple[str, ...]:
    there = dict(stored.parameters).get("stop", ())
    faults = [f"its stop {stop!r} is missing" for stop in stops if stop not in there]
    if stored.template_source != "gguf":
        faults.append(f"its prompt comes from {stored.template_source}, not from the file's chat template")
    if stored.system:
        faults.append(f"it has a system prompt: {stored.system[:40]!r}")
    if stored.blob_sha256 != registered.blob_sha256:
        faults.append(f"its weights are sha256 {stored.blob_sha256}, registered were {registered.blob_sha256}")
    return tuple(faults)


def _finding(
    stage: Stage, subject: str, checks: list[Check], failed: list[Check], faults: tuple[str, ...]
) -> StageFinding:
    """Failed with the faults and the first failed check, passed when a check did, else not checked."""
    said = [*faults, *(f"{check.name}: {check.detail}" for check in failed[:1])]
    if said:
        return StageFinding(stage=stage, subject=subject, outcome=Outcome.FAILED, detail="; ".join(said))
    passed = [check.name for check in checks if check.outcome is Outcome.PASSED]
    if passed:
        return StageFinding(stage=stage, subject=subject, outcome=Outcome.PASSED, detail=", ".join(passed))
    detail = checks[0].detail if checks else "it was not compared"
    return StageFinding(stage=stage, subject=subject, outcome=Outcome.NOT_CHECKED, detail=detail)


def _judged(verdict: Verdict, quant: Quant) -> bool:
    """Whether anything was found out of a file: where no limit was measured, its distances are not checked."""
    return any(check.outcome is not Outcome.NOT_CHECKED for check in _distances(verdict, quant))


def _distances(verdict: Verdict, quant: Quant) -> list[Check]:
    checks = _checks(verdict, quant, _EMBEDDED)
    return [check for check in checks if check.name in _DISTANCES] or checks


def _failed(verdict: Verdict, quant: Quant, engine: str) -> list[Check]:
    return [check for check in _checks(verdict, quant, engine) if check.outcome is Outcome.FAILED]


def _checks(verdict: Verdict, quant: Quant, engine: str) -> list[Check]:
    return [check for check in verdict.checks if (check.subject, check.engine) == (quant.value, engine)]
