"""One GGUF file on the embedded llama.cpp against the reference: prompts, token ids, distributions, answers."""

from __future__ import annotations

from packager.artifacts import Check, Quant
from packager.engines.llama_cpp import Embedded
from packager.engines.transformers import Answer
from packager.parity.answers import AnswerMatch, compare_answer
from packager.parity.gates import QuantGates
from packager.parity.judge import answers_check, distribution_checks
from packager.parity.logits import Distance, distance
from packager.parity.matrix import row_check
from packager.parity.prompts import compare_prompts
from packager.parity.steps import Steps
from packager.parity.tokens import compare_tokens
from packager.parity.truth import ANSWER_TOKENS, GREEDY_ANSWERS, Answered, Truth


def embedded_probes(truth_conversations: int, core: int) -> int:
    """Count the conversations that `embedded_checks` puts to the engine, for the progress total."""
    return truth_conversations + core + min(core, GREEDY_ANSWERS)


def embedded_checks(engine: Embedded, quant: Quant, truth: Truth, gates: QuantGates, steps: Steps) -> tuple[Check, ...]:
    """Compare one file with the reference.

    Returns:
        `prompts`, `token ids`, `distribution`, `first token` and `answers`, in this order.

    Raises:
        InputInvalid: llama.cpp cannot load or evaluate the file.
    """
    subject = quant.value
    label = f"{engine.name} {subject}"
    prompts, ids = [], []
    for conversation in truth.conversations:
        prompts.append(engine.render(conversation))
        ids.append(engine.tokens(conversation))
        steps.done(f"{label}: prompt {conversation.id}")
    cells = compare_prompts(truth.conversations, truth.prompts, tuple(prompts))
    fed = compare_tokens(truth.conversations, truth.ids, tuple(ids), piece=truth.reference.piece)
    measured = _distance(engine, truth, steps, label)
    matches = [_match(engine, truth, answered, steps, label) for answered in truth.answered[:GREEDY_ANSWERS]]
    return (
        row_check(cells, subject=subject, engine=engine.name, name="prompts"),
        row_check(fed, subject=subject, engine=engine.name, name="token ids"),
        *distribution_checks(measured, gates, subject=subject, engine=engine.name),
        answers_check(tuple(matches), gates, subject=subject, engine=engine.name),
    )


def match_answer(conversation: str, answer: Answer, text: str, truth: Truth) -> AnswerMatch:
    """Compare an engine's text with the reference's answer, both as the reference's tokens."""
    return compare_answer(
        conversation,
        reference_text=answer.text,
        reference_ids=answer.ids,
        reference_logprobs=answer.logprobs,
        text=text,
        ids=truth.reference.encode(text),
    )


def _distance(engine: Embedded, truth: Truth, steps: Steps, label: str) -> Distance:
    """Feed the reference's ids, so that every position has the same past on both sides."""
    pairs = []
    for answered in truth.answered:
        answer = answered.answer
        found = engine.next_logprobs(answer.prompt + answer.ids[:-1], start=len(answer.prompt) - 1)
        # An embedding padded on one side only: the extra rows are never trained and have no probability to speak of.
        width = min(found.shape[1], answer.logprobs.shape[1])
        pairs.append((answer.logprobs[:, :width], found[:, :width]))
        steps.done(f"{label}: logits {answered.conversation.id}")
    return distance(pairs)


def _match(engine: Embedded, truth: Truth, answered: Answered, steps: Steps, label: str) -> AnswerMatch:
    text = engine.generate(answered.conversation, max_tokens=ANSWER_TOKENS)
    steps.done(f"{label}: answer {answered.conversation.id}")
    return match_answer(answered.conversation.id, answered.answer, text if isinstance(text, str) else "", truth)
