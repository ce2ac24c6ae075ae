"""Whether a served model ends its answers where the reference ended them, and is cut where it is told to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from packager.artifacts import Check, Outcome
from packager.engines.engine import NotSupported
from packager.engines.ollama_answers import ServedAnswer
from packager.engines.transformers import Answer
from packager.parity.embedded import match_answer
from packager.parity.gates import QuantGates
from packager.parity.judge import measure
from packager.parity.truth import ANSWER_TOKENS, Answered, Truth

_NEAR = 1  # an engine may count the token that ends an answer, or not


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A greedy answer that was asked for again with room for `max_tokens` tokens only."""

    conversation: str
    max_tokens: int
    found: ServedAnswer | NotSupported


def cut_length(spoken: ServedAnswer) -> int:
    """Give where to cut an answer: half way; 0 where it is too short for that, or its length is not known."""
    return (spoken.answer_tokens or 0) // 2


def stops_check(
    spoken: Sequence[tuple[Answered, ServedAnswer]],
    cut: Cut | None,
    truth: Truth,
    gates: QuantGates,
    *,
    subject: str,
    engine: str,
) -> Check:
    """Judge the ends of greedy answers of up to `ANSWER_TOKENS` tokens.

    An answer that leaves the reference's before its end shows nothing about that end. One that goes on past it shows a lost
    stop where the reference was surer of ending there than the quant's margin, or where it goes on without a word.

    Args:
        spoken: What Ollama answered to each conversation.
        cut: One of these answers, cut; None when all are too short.
        truth: The reference's side.
        gates: The quant's limits.
        subject: The quant.
        engine: Name of the engine.
    """
    faults = [
        f"{one.conversation.id}: {fault}" for one, answer in spoken if (fault := _fault(one, answer, truth, gates))
    ]
    faults += [f"{cut.conversation}: {fault}"] if cut is not None and (fault := _cut_fault(cut)) else []
    ended = sum(_is_end(one.answer, answer, truth) for one, answer in spoken)
    of = sum(ends_by_itself(one.answer, truth) for one, _ in spoken)
    measures = (
        measure("ended as the reference", ended, "answers"),
        measure("wrong ends", len(faults), "answers", 0),
    )
    detail = f"{ended} of the {of} answers that the reference ended end there"
    if faults:
        outcome, detail = Outcome.FAILED, faults[0]
    elif not ended:
        outcome, detail = Outcome.NOT_CHECKED, f"{detail}: none shows whether it stops"
    else:
        outcome = Outcome.PASSED
        detail += f"; one is cut after {cut.max_tokens} tokens" if cut is not None else ""
    return Check(subject=subject, engine=engine, name="stops", outcome=outcome, detail=detail, measures=measures)


def ends_by_itself(answer: Answer, truth: Truth) -> bool:
    """Whether the reference ended its answer, rather than being cut at its limit."""
    return len(answer.ids) < ANSWER_TOKENS or truth.reference.piece(answer.ids[-1]) in truth.reference.special_tokens


def _is_end(answer: Answer, spoken: ServedAnswer, truth: Truth) -> bool:
    near = abs((spoken.answer_tokens or 0) - len(answer.ids)) <= _NEAR
    return ends_by_itself(answer, truth) and spoken.content == answer.text and spoken.end == "stop" and near


def _fault(answered: Answered, spoken: ServedAnswer, truth: Truth, gates: QuantGates) -> str:
    answer = answered.answer
    for text in truth.reference.special_tokens:
        if text in spoken.content and text not in answer.text:
            return f"the answer holds {text!r}, which ends or begins a turn"
    if not ends_by_itself(answer, truth) or _is_end(answer, spoken, truth):
        return ""
    if spoken.answer_tokens is None or not spoken.end:
        return "Ollama does not say how the answer ended"
    if not spoken.content.startswith(answer.text):
        return ""
    match = match_answer(answered.conversation.id, answer, spoken.content, truth)
    undecided = gates.answer_margin is None or match.margin_nats <= gates.answer_margin
    if spoken.content != answer.text and undecided:
        return ""
    return f"the reference ends after {len(answer.ids)} tokens, Ollama after {spoken.answer_tokens} ({spoken.end})"


def _cut_fault(cut: Cut) -> str:
    if isinstance(cut.found, NotSupported):
        return f"{cut.found.code}: {cut.found.detail}"
    if (cut.found.end, cut.found.answer_tokens) != ("length", cut.max_tokens):
        said = f"{cut.found.answer_tokens} ({cut.found.end or 'no reason'})"
        return f"asked for {cut.max_tokens} tokens, Ollama gave {said}"
    return ""
