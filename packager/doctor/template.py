"""The chat template: what builds the model's prompts, and whether they are training's."""

from __future__ import annotations

from packager.doctor.case import Patient
from packager.doctor.finding import Examined, Finding, Healthy, NotChecked, Organ, Remedy, Severity
from packager.doctor.prompts import Prompts, Turn
from packager.doctor.source import Source, template_source
from packager.doctor.system import explained
from packager.engines.engine import NotSupported
from packager.parity.causes import DIFFERS
from packager.parity.differences import text_difference

_SIDES = ("training", "here")


def examine_template(patient: Patient, prompts: Prompts) -> Examined:
    """Compare the prompts of every CORE conversation as texts, and say which template built them."""
    source = template_source(patient)
    if prompts.unseen:
        return Examined(not_checked=(NotChecked(organ=Organ.TEMPLATE, why=prompts.unseen),))
    if not prompts.turns:
        why = "the reference's template takes none of the CORE conversations"
        return Examined(not_checked=(NotChecked(organ=Organ.TEMPLATE, why=why),))
    first_turns = patient.stored.first_turns if patient.stored is not None else 0
    different = [turn for turn in prompts.turns if not prompts.same_text(turn) and not explained(turn, prompts)]
    if different and first_turns:
        return _first_turns(first_turns, different, prompts)
    if different:
        return Examined(findings=(_finding(source, different, prompts),))
    what = f"{len(prompts.turns)} CORE prompts from {source.words}"
    if any(not prompts.same_text(turn) for turn in prompts.turns):
        return Examined()  # its default system prompt is at fault, and told as that
    return Examined(healthy=(Healthy(organ=Organ.TEMPLATE, what=f"{what} are training's"),))


def _finding(source: Source, different: list[Turn], prompts: Prompts) -> Finding:
    first = different[0]
    if isinstance(first.found, NotSupported):
        shown = first.found.detail
    else:
        shown = text_difference(str(first.expected), first.found, _SIDES)
    cause = "" if first.cause in ("", DIFFERS) else f" ({first.cause})"
    return Finding(
        code=source.code,
        organ=Organ.TEMPLATE,
        severity=Severity.CRITICAL,
        what=f"{source.words} builds other prompts than training{cause}; {first.conversation.id}, {shown}",
        cost=f"{len(different)} of {len(prompts.turns)} CORE conversations get another prompt",
        affected=len(different) / len(prompts.turns),
        remedy=Remedy.MODELFILE,
    )


def _first_turns(count: int, different: list[Turn], prompts: Prompts) -> Examined:
    finding = Finding(
        code="FIRST_TURNS",
        organ=Organ.TEMPLATE,
        severity=Severity.SERIOUS,
        what=f"MESSAGE of the Modelfile puts {count} turns in front of every conversation; training had none",
        cost=f"{len(different)} of {len(prompts.turns)} CORE conversations get another prompt",
        affected=len(different) / len(prompts.turns),
        remedy=Remedy.MODELFILE,
    )
    return Examined(findings=(finding,))
