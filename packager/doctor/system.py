"""The default system prompt: what a conversation without one begins with, lost, added or replaced."""

from __future__ import annotations

from packager.doctor.case import Patient
from packager.doctor.finding import Examined, Finding, Healthy, NotChecked, Organ, Remedy, Severity
from packager.doctor.prompts import Prompts, Turn
from packager.doctor.served import without_bos
from packager.doctor.source import template_source

_SHOWN_CHARACTERS = 60


def examine_system(patient: Patient, prompts: Prompts) -> Examined:
    """Compare the default system prompts, where some conversation differs in nothing else."""
    if prompts.unseen:
        return Examined(not_checked=(NotChecked(organ=Organ.SYSTEM, why=prompts.unseen),))
    hit = [turn for turn in prompts.turns if explained(turn, prompts)]
    expected, found = prompts.expected_system, prompts.found_system
    if not hit:
        if expected != found or not all(prompts.same_text(turn) for turn in prompts.turns):
            return Examined()  # something else is at fault in every prompt, and is told as the template
        return Examined(healthy=(Healthy(organ=Organ.SYSTEM, what=f"{_shown(expected)}, as in training"),))
    code = "SYSTEM_LOST" if found is None else "SYSTEM_ADDED" if expected is None else "SYSTEM_OTHER"
    source = _source(patient)
    return Examined(
        findings=(
            Finding(
                code=code,
                organ=Organ.SYSTEM,
                severity=Severity.CRITICAL,
                what=f"{source}: {_shown(found)}; training had {_shown(expected)}",
                cost=f"{len(hit)} of {len(prompts.turns)} CORE conversations, those without a system message of their own, "
                "get another prompt",
                affected=len(hit) / len(prompts.turns),
                remedy=Remedy.MODELFILE,
            ),
        )
    )


def explained(turn: Turn, prompts: Prompts) -> bool:
    """Whether a prompt differs from training's in its default system prompt and in nothing else."""
    if prompts.same_text(turn) or turn.has_system or prompts.expected_system == prompts.found_system:
        return False
    if prompts.found_system is not None:
        return prompts.equal(turn.with_found_system, turn.found)
    if prompts.expected_system is None or not isinstance(turn.expected, str) or not isinstance(turn.found, str):
        return False
    expected, found = without_bos(turn.expected, prompts.bos), without_bos(turn.found, prompts.bos)
    return prompts.expected_system not in found and _is_cut(expected, found, prompts.expected_system)


def _is_cut(whole: str, cut: str, lost: str) -> bool:
    """Whether `cut` is `whole` without one piece of it, and that piece holds `lost`."""
    at = whole.find(lost)
    return any(
        whole[:start] + whole[start + len(whole) - len(cut) :] == cut
        for start in range(at + 1)
        if start + len(whole) - len(cut) >= at + len(lost)
    )


def _source(patient: Patient) -> str:
    stored = patient.stored
    if stored is not None and stored.system:
        return "SYSTEM of the Modelfile"
    return template_source(patient).words.rstrip(",")


def _shown(system: str | None) -> str:
    if system is None:
        return "no default system prompt"
    if not system:
        return "an empty system prompt"
    text = " ".join(system.split())
    return repr(text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…")
