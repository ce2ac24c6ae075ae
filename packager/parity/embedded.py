"""One GGUF file on the embedded llama.cpp against the reference: prompts, token ids, distributions, answers."""

from __future__ import annotations

from packager.artifacts import Quant
from packager.engines.llama_cpp import Embedded
from packager.engines.transformers import Answer
from packager.evidence import AnswerPositions, AnswerText, MatrixRow, Part
from packager.parity.answers import AnswerMatch, compare_answer
from packager.parity.differences import common_length
from packager.parity.findings import Findings
from packager.parity.gates import QuantGates
from packager.parity.judge import answers_check, distribution_check, first_token_check, prompt_check
from packager.parity.logits import Scores, finite, joined, part_distance, scores
from packager.parity.matrix import row_check
from packager.parity.prompts import compare_prompts
from packager.parity.steps import Steps
from packager.parity.tokenizer import compare_tokenizers, tokenizer_check
from packager.parity.tokens import compare_tokens
from packager.parity.truth import ANSWER_TOKENS, GREEDY_ANSWERS, Answered, Truth


def embedded_probes(truth_conversations: int, core: int) -> int:
    """Count the conversations that `embedded_findings` puts to the engine, for the progress total."""
    return truth_conversations + core + min(core, GREEDY_ANSWERS)


def embedded_findings(engine: Embedded, quant: Quant, truth: Truth, gates: QuantGates, steps: Steps) -> Findings:
    """Compare one file with the reference.

    Returns:
        Checks `prompts`, `token ids`, `tokenizer`, `distribution`, `prompt distribution`, `first token` and `answers`, in
        this order.

    Raises:
        InputInvalid: llama.cpp cannot load or evaluate the file.
    """
    label = f"{engine.name} {quant.value}"
    prompts = _prompts(engine, quant.value, truth, steps, label)
    tokenizer = _tokenizer(engine, quant.value, truth)
    logits = _distributions(engine, quant.value, truth, gates, steps, label)
    return prompts + tokenizer + logits + _answers(engine, quant.value, truth, gates, steps, label)


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


def answer_text(conversation: str, answer: Answer, text: str, *, subject: str, engine: str) -> AnswerText:
    """Put an engine's text beside the reference's."""
    return AnswerText(
        conversation=conversation,
        subject=subject,
        engine=engine,
        reference=answer.text,
        text=text,
        common_characters=common_length(answer.text, text),
    )


def _prompts(engine: Embedded, subject: str, truth: Truth, steps: Steps, label: str) -> Findings:
    prompts, ids = [], []
    for conversation in truth.conversations:
        prompts.append(engine.render(conversation))
        ids.append(engine.tokens(conversation))
        steps.done(f"{label}: prompt {conversation.id}")
    rows = {
        "prompts": compare_prompts(truth.conversations, truth.prompts, tuple(prompts)),
        "token ids": compare_tokens(truth.conversations, truth.ids, tuple(ids), piece=truth.reference.piece),
    }
    return Findings(
        checks=tuple(row_check(cells, subject=subject, engine=engine.name, name=name) for name, cells in rows.items()),
        matrix=tuple(
            MatrixRow(subject=subject, engine=engine.name, name=name, cells=cells) for name, cells in rows.items()
        ),
    )


def _tokenizer(engine: Embedded, subject: str, truth: Truth) -> Findings:
    classes = compare_tokenizers(
        truth.reference.encode,
        lambda text: engine.tokenize(text, add_special=False),
        special=truth.reference.special_tokens,
    )
    return Findings(checks=(tokenizer_check(classes, subject=subject, engine=engine.name),), tokenizer=classes)


def _distributions(
    engine: Embedded, subject: str, truth: Truth, gates: QuantGates, steps: Steps, label: str
) -> Findings:
    told: list[Scores] = []
    said: list[Scores] = []
    for answered in truth.answered:
        found = _followed(engine, answered.answer)
        told.append(found.between(0, len(answered.answer.prompt) - 1))
        said.append(found.between(len(answered.answer.prompt) - 1, None))
        steps.done(f"{label}: logits {answered.conversation.id}")
    prompts = part_distance(joined(told), subject=subject, engine=engine.name, part=Part.PROMPT)
    answers = part_distance(joined(said), subject=subject, engine=engine.name, part=Part.ANSWER)
    first = sum(float(found.kl[0]) for found in said) / len(said)
    return Findings(
        checks=(
            distribution_check(answers, gates),
            prompt_check(prompts, gates),
            first_token_check(first, gates, subject=subject, engine=engine.name),
        ),
        distances=(answers, prompts),
        positions=tuple(
            _positions(answered, found, truth, subject=subject, engine=engine.name)
            for answered, found in zip(truth.answered, said, strict=True)
        ),
    )


def _followed(engine: Embedded, answer: Answer) -> Scores:
    """Feed the reference's ids, so that every position has the same past on both sides; a block is let go once compared."""
    import numpy as np

    ids, prompt = answer.prompt + answer.ids, len(answer.prompt) - 1
    found: list[Scores] = []
    first = 0
    for block in engine.logprob_blocks(ids[:-1]):
        end = first + len(block)
        expected = answer.prompt_logprobs[first:end], answer.logprobs[max(first - prompt, 0) : max(end - prompt, 0)]
        found.append(scores(np.concatenate(expected), block, ids[first + 1 : end + 1]))
        first = end
    return joined(found)


def _positions(answered: Answered, found: Scores, truth: Truth, *, subject: str, engine: str) -> AnswerPositions:
    return AnswerPositions(
        conversation=answered.conversation.id,
        subject=subject,
        engine=engine,
        tokens=tuple(truth.reference.piece(token) for token in answered.answer.ids),
        kl=tuple(float(f"{value:.3g}") for value in map(finite, found.kl)),
        same_top=tuple(map(bool, found.same_top)),
    )


def _answers(engine: Embedded, subject: str, truth: Truth, gates: QuantGates, steps: Steps, label: str) -> Findings:
    matches, texts = [], []
    for answered in truth.answered[:GREEDY_ANSWERS]:
        found = engine.generate(answered.conversation, max_tokens=ANSWER_TOKENS)
        text = found if isinstance(found, str) else ""
        steps.done(f"{label}: answer {answered.conversation.id}")
        matches.append(match_answer(answered.conversation.id, answered.answer, text, truth))
        texts.append(answer_text(answered.conversation.id, answered.answer, text, subject=subject, engine=engine.name))
    check = answers_check(tuple(matches), gates, subject=subject, engine=engine.name)
    return Findings(checks=(check,), answers=tuple(texts))
