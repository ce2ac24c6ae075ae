"""What ends an answer: every stop of the reference must, and nothing else may."""

from __future__ import annotations

from packager.doctor.case import Patient, Reference
from packager.doctor.finding import Examined, Finding, Healthy, Organ, Remedy, Severity
from packager.doctor.prompts import Prompts
from packager.formats.gguf import GgufArray

# Tokens at which llama.cpp ends an answer whatever the metadata says of them.
# Source: llama.cpp src/llama-vocab.cpp, special_eog_ids, as vendored by llama-cpp-python 0.3.36.
END_TEXTS = frozenset({
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
    "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "<end_of_utterance>",
    "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~[",
})  # fmt: skip
_END_KEYS = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")


def examine_stops(patient: Patient, reference: Reference, prompts: Prompts) -> Examined:
    """Compare what ends an answer here with what ended one in training."""
    wanted = reference.found.template.stops
    parameters = _parameters(patient)
    ends = _ends(patient, reference) | set(parameters)
    findings = [_missing(stop, ends, first=index == 0) for index, stop in enumerate(wanted) if stop not in ends]
    special = {token.text for token in reference.tokens.special if token.special}
    after = _after_answer(prompts)
    cutting = [s for s in parameters if s not in special and s not in wanted and not (s and after.startswith(s))]
    findings += [_cutting(stop, wanted) for stop in cutting]
    if findings:
        return Examined(findings=tuple(findings))
    what = f"{' '.join(wanted)} end an answer" if wanted else "training names none"
    return Examined(healthy=(Healthy(organ=Organ.STOP, what=what),))


def _missing(stop: str, ends: set[str], *, first: bool) -> Finding:
    named = " ".join(sorted(ends)) or "nothing"
    return Finding(
        code="STOP_MISSING",
        organ=Organ.STOP,
        severity=Severity.SERIOUS if first else Severity.MINOR,
        what=f"{stop} does not end an answer here, {named} does; in training it did",
        cost=f"answers run on after {stop}, into turns that the model makes up",
        remedy=Remedy.MODELFILE,
    )


def _cutting(stop: str, wanted: tuple[str, ...]) -> Finding:
    return Finding(
        code="STOP_CUTS",
        organ=Organ.STOP,
        severity=Severity.SERIOUS,
        what=f"PARAMETER stop {stop!r} is ordinary text; training stopped at {' '.join(wanted) or 'nothing'}",
        cost=f"every answer is cut before its first {stop!r}",
        remedy=Remedy.MODELFILE,
    )


def _parameters(patient: Patient) -> tuple[str, ...]:
    stored = dict(patient.stored.parameters) if patient.stored is not None else {}
    return tuple(str(value) for value in stored.get("stop", ()))


def _ends(patient: Patient, reference: Reference) -> set[str]:
    """Give the text of every token at which llama.cpp ends an answer."""
    texts = _token_texts(patient, reference)
    numbers = (patient.value(f"tokenizer.ggml.{name}_token_id") for name in _END_KEYS)
    named = {texts[number] for number in numbers if isinstance(number, int) and number in texts}
    return named | (END_TEXTS & set(texts.values()))


def _token_texts(patient: Patient, reference: Reference) -> dict[int, str]:
    listed = patient.header.value("tokenizer.ggml.tokens") if patient.header is not None else None
    if isinstance(listed, GgufArray):
        return {number: str(text) for number, text in enumerate(listed.items())}
    return {token.id: token.text for token in reference.tokens.special}


def _after_answer(prompts: Prompts) -> str:
    """Give what training wrote behind an answer in the middle of a conversation."""
    for turn in prompts.turns:
        answers = [m.content for m in turn.conversation.messages if m.role == "assistant"]
        if answers and isinstance(turn.expected, str):
            return turn.expected.partition(answers[0])[2].lstrip()
    return ""
