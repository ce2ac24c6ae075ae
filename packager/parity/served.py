"""A model as Ollama serves it against the reference: prompts, token ids, first token, answers.

Ollama shows less than the embedded engine does: the prompt as text through its debug render, how many tokens it evaluated,
and the most likely first tokens. The text is therefore tokenized here with the GGUF's own tokenizer the way llama-server
does it, and the count is an independent witness for tokens that the text does not show.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from packager.artifacts import Check, Measure, Outcome, Registered
from packager.engines.engine import NotSupported
from packager.engines.llama_cpp import Embedded
from packager.errors import ToolMissing
from packager.parity.embedded import match_answer
from packager.parity.gates import QuantGates
from packager.parity.judge import answers_check, gated, measure
from packager.parity.logits import lumped_kl, unique_texts
from packager.parity.matrix import row_check
from packager.parity.prompts import compare_prompts
from packager.parity.steps import Steps
from packager.parity.tokens import compare_tokens
from packager.parity.truth import ANSWER_TOKENS, GREEDY_ANSWERS, Truth

if TYPE_CHECKING:
    from packager.engines.ollama import OllamaEngine

TOP_TOKENS = 20


def served_probes(conversations: int, core: int) -> int:
    """Count the conversations that `served_checks` puts to the engine, for the progress total."""
    return conversations + core + min(core, GREEDY_ANSWERS)


def served_checks(
    engine: OllamaEngine,
    registered: Registered,
    file: Embedded,
    truth: Truth,
    gates: QuantGates,
    steps: Steps,
) -> tuple[Check, ...]:
    """Compare one registered model with the reference.

    Args:
        engine: The model in Ollama.
        registered: What Ollama stored.
        file: The same GGUF embedded, for its tokenizer.
        truth: The reference's side.
        gates: The limits of its quant; the ones for full distributions hold for what Ollama shows of them.
        steps: Progress.

    Returns:
        `stored model`, `prompts`, `token ids`, `first token` and `answers`, in this order.

    Raises:
        OllamaFailed: The server died or refused.
    """
    subject = registered.quant.value
    label = f"{engine.name} {subject}"
    prompts, counts = [], []
    for conversation in truth.conversations:
        prompts.append(engine.render(conversation))
        counts.append(engine.prompt_token_count(conversation))
        steps.done(f"{label}: prompt {conversation.id}")
    return (
        _stored(registered, engine.name),
        _prompts(tuple(prompts), truth, subject=subject, engine=engine.name),
        _token_ids(tuple(prompts), tuple(counts), file, truth, subject=subject, engine=engine.name),
        _first_token(engine, file, truth, gates, steps, label, subject),
        _answers(engine, truth, gates, steps, label, subject),
    )


def _stored(registered: Registered, engine: str) -> Check:
    if registered.same_bytes:
        outcome, detail = Outcome.PASSED, f"the file's own bytes, prompt from the {registered.template_source}"
    else:
        outcome = Outcome.NOT_CHECKED
        detail = (
            f"Ollama rewrote the file (now sha256 {registered.blob_sha256[:12]}…); what it serves is compared below"
        )
    return Check(subject=registered.quant.value, engine=engine, name="stored model", outcome=outcome, detail=detail)


def _prompts(prompts: tuple[str | NotSupported, ...], truth: Truth, *, subject: str, engine: str) -> Check:
    cells = compare_prompts(truth.conversations, truth.prompts, prompts, stripped_bos=truth.reference.bos_text)
    return row_check(cells, subject=subject, engine=engine, name="prompts")


def _token_ids(
    prompts: tuple[str | NotSupported, ...],
    counts: tuple[int | NotSupported, ...],
    file: Embedded,
    truth: Truth,
    *,
    subject: str,
    engine: str,
) -> Check:
    try:
        ids = tuple(
            text if isinstance(text, NotSupported) else file.tokenize(text, add_special=True) for text in prompts
        )
    except ToolMissing as error:
        return Check(
            subject=subject, engine=engine, name="token ids", outcome=Outcome.NOT_CHECKED, detail=error.message
        )
    cells = compare_tokens(truth.conversations, truth.ids, ids, piece=truth.reference.piece, counts=counts)
    return row_check(cells, subject=subject, engine=engine, name="token ids")


def _first_token(
    engine: OllamaEngine, file: Embedded, truth: Truth, gates: QuantGates, steps: Steps, label: str, subject: str
) -> Check:
    """Compare the likeliest first tokens with the reference, and for the record with the same file embedded."""
    try:
        texts = unique_texts(file.pieces)
    except ToolMissing as error:
        return Check(
            subject=subject, engine=engine.name, name="first token", outcome=Outcome.NOT_CHECKED, detail=error.message
        )
    to_reference, to_file = [], []
    for answered in truth.answered:
        served = engine.first_token(answered.conversation, TOP_TOKENS)
        steps.done(f"{label}: first token {answered.conversation.id}")
        if isinstance(served, NotSupported):
            return Check(
                subject=subject,
                engine=engine.name,
                name="first token",
                outcome=Outcome.NOT_CHECKED,
                detail=f"{served.code}: {served.detail}",
            )
        prompt = answered.answer.prompt
        to_reference.append(lumped_kl(answered.answer.logprobs[0], served, texts))
        to_file.append(lumped_kl(file.next_logprobs(prompt, start=len(prompt) - 1)[0], served, texts))
    measures: tuple[Measure, ...] = (
        measure(f"mean KL over the top {TOP_TOKENS}", sum(to_reference) / len(to_reference), "nats", gates.first_kl),
        measure("to the same file in llama.cpp", sum(to_file) / len(to_file), "nats"),
    )
    return gated(measures, subject=subject, engine=engine.name, name="first token")


def _answers(engine: OllamaEngine, truth: Truth, gates: QuantGates, steps: Steps, label: str, subject: str) -> Check:
    matches = []
    for answered in truth.answered[:GREEDY_ANSWERS]:
        text = engine.generate(answered.conversation, max_tokens=ANSWER_TOKENS)
        steps.done(f"{label}: answer {answered.conversation.id}")
        if isinstance(text, NotSupported):
            return Check(
                subject=subject,
                engine=engine.name,
                name="answers",
                outcome=Outcome.NOT_CHECKED,
                detail=f"{text.code}: {text.detail}",
            )
        matches.append(match_answer(answered.conversation.id, answered.answer, text, truth))
    return answers_check(tuple(matches), gates, subject=subject, engine=engine.name)
