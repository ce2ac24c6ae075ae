"""The token that begins a sequence: lost or doubled on the way, which the text of a prompt does not show."""

from __future__ import annotations

from packager.doctor.case import Ids, Patient, Reference
from packager.doctor.finding import Examined, Finding, Healthy, NotChecked, Organ, Remedy, Severity
from packager.doctor.prompts import Prompts, Turn


def examine_bos(patient: Patient, reference: Reference, prompts: Prompts) -> Examined:
    """Count the BOS tokens in front of every CORE prompt on both sides; Ollama's own count of tokens is the witness."""
    number = reference.tokens.id_of(prompts.bos) if prompts.bos else patient.value("tokenizer.ggml.bos_token_id")
    if not isinstance(number, int):
        return Examined(healthy=(Healthy(organ=Organ.BOS, what="the tokenizer has none, and the GGUF names none"),))
    bos = prompts.bos or f"BOS (token {number})"
    counted = [(turn, *pair) for turn in prompts.turns if (pair := _leading(prompts, turn, number)) is not None]
    if not counted and any(turn.found_ids is not None for turn in prompts.turns):
        return Examined()  # told as the template
    if not counted:
        why = prompts.ids_missing or prompts.unseen or "no prompt was built"
        return Examined(not_checked=(NotChecked(organ=Organ.BOS, why=f"token ids are needed: {why}"),))
    wrong = [(expected, found) for _, expected, found in counted if expected != found]
    if not wrong:
        return Examined(healthy=(Healthy(organ=Organ.BOS, what=f"{counted[0][1]} {bos}, as in training"),))
    expected, found = wrong[0]
    flag = patient.value("tokenizer.ggml.add_bos_token")
    literal = patient.stored is not None and patient.stored.template_source == "template"
    literal = literal and patient.stored is not None and bos in patient.stored.template
    where = f"add_bos_token of the GGUF is {'absent' if flag is None else str(flag).lower()}"
    if literal:
        where += f", and the Go TEMPLATE writes {bos}"
    return Examined(
        findings=(
            Finding(
                code="BOS_LOST" if found < expected else "BOS_DUP",
                organ=Organ.BOS,
                severity=Severity.SERIOUS,
                what=f"prompts begin with {found} {bos}, in training with {expected}; {where}",
                cost=f"{len(wrong)} of {len(counted)} CORE prompts begin with tokens that the model never saw there",
                affected=len(wrong) / len(counted),
                remedy=Remedy.MODELFILE if prompts.bos else Remedy.REBUILD,
            ),
        )
    )


def _leading(prompts: Prompts, turn: Turn, number: int) -> tuple[int, int] | None:
    """Count BOS in front of what training fed and of what the model is fed.

    In some families it also begins every turn (SmolLM2's `<|im_start|>`): there a wrong template lacks it as well, and that is
    the template's fault.
    """
    if turn.expected_ids is None or turn.found_ids is None:
        return None
    begins_turns = turn.expected_ids.count(number) > _run(turn.expected_ids, number)
    if begins_turns and not prompts.same_text(turn):
        return None
    found = _run(turn.found_ids, number)
    if isinstance(turn.count, int) and abs(turn.count - len(turn.found_ids)) == 1:
        found += turn.count - len(turn.found_ids)  # the server did otherwise than its text shows
    return _run(turn.expected_ids, number), found


def _run(ids: Ids, number: int) -> int:
    return next((index for index, token in enumerate(ids) if token != number), len(ids))
