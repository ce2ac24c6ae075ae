"""A model as Ollama serves it against the reference: prompts, token ids, distributions, answers, ends and endpoints.

Ollama shows less than the embedded engine does: the prompt as text through its debug render, how many tokens it evaluated,
and the most likely tokens at a place. The text is therefore tokenized here with the GGUF's own tokenizer the way llama-server
does it, and the count is an independent witness for tokens that the text does not show.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from packager.artifacts import Check, Outcome, Registered
from packager.engines.engine import NotSupported
from packager.engines.llama_cpp import Embedded
from packager.errors import ToolMissing
from packager.evidence import Cell, MatrixRow
from packager.parity.findings import Findings
from packager.parity.gates import QuantGates
from packager.parity.matrix import row_check, unanswered
from packager.parity.prompts import compare_prompts
from packager.parity.served_answers import Asked, answer_findings, ask_served
from packager.parity.served_doors import DOOR_TOKENS, ask_doors, openai_check, streaming_check
from packager.parity.shown import ShownVocabulary
from packager.parity.steps import Steps
from packager.parity.tokens import compare_tokens
from packager.parity.truth import GREEDY_ANSWERS, Truth

if TYPE_CHECKING:
    from packager.engines.ollama import OllamaEngine


def served_probes(conversations: int, core: int) -> int:
    """Count the conversations that `served_findings` puts to the engine, for the progress total."""
    return conversations + min(core, len(DOOR_TOKENS))


def served_findings(
    engine: OllamaEngine,
    registered: Registered,
    file: Embedded,
    truth: Truth,
    gates: QuantGates,
    steps: Steps,
) -> Findings:
    """Compare one registered model with the reference.

    Args:
        engine: The model in Ollama.
        registered: What Ollama stored.
        file: The same GGUF embedded, for its tokenizer and its own distributions.
        truth: The reference's side.
        gates: The limits of its quant; the ones for full distributions hold for what Ollama shows of them.
        steps: Progress.

    Returns:
        Checks `stored model`, `prompts`, `token ids`, `distribution`, `same file`, `first token`, `answers`, `stops`,
        `streaming` and `openai endpoint`, in this order.

    Raises:
        OllamaFailed: The server died or refused.
        InputInvalid: llama.cpp cannot evaluate the file.
    """
    subject = registered.quant.value
    label = f"{engine.name} {subject}"
    answers = {answered.conversation.id: answered for answered in truth.answered}
    vocabulary = _vocabulary(file)
    beside = set(list(answers)[:GREEDY_ANSWERS])
    asked = []
    for conversation in truth.conversations:
        answered, beside_file = answers.get(conversation.id), conversation.id in beside
        asked.append(ask_served(engine, conversation, answered, file, vocabulary, beside_file=beside_file))
        steps.done(f"{label}: {conversation.id}")
    stored = Findings(checks=(_stored(registered, engine.name),))
    fed = _prompts(asked, file, truth, subject=subject, engine=engine.name)
    said = answer_findings(engine, asked, truth, gates, subject=subject)
    return stored + fed + said + _doors(engine, truth, steps, label, subject)


def _stored(registered: Registered, engine: str) -> Check:
    if registered.same_bytes:
        outcome, detail = Outcome.PASSED, f"the file's own bytes, prompt from the {registered.template_source}"
    else:
        outcome = Outcome.NOT_CHECKED
        detail = (
            f"Ollama rewrote the file (now sha256 {registered.blob_sha256[:12]}…); what it serves is compared below"
        )
    return Check(subject=registered.quant.value, engine=engine, name="stored model", outcome=outcome, detail=detail)


def _vocabulary(file: Embedded) -> ShownVocabulary | NotSupported:
    try:
        return ShownVocabulary(file.spoken)
    except ToolMissing as error:
        return NotSupported(code="NO_TOKENIZER", detail=error.message)


def _prompts(asked: Sequence[Asked], file: Embedded, truth: Truth, *, subject: str, engine: str) -> Findings:
    prompts, counts = tuple(one.prompt for one in asked), tuple(one.count for one in asked)
    rows = {
        "prompts": compare_prompts(truth.conversations, truth.prompts, prompts, stripped_bos=truth.reference.bos_text),
        "token ids": _token_cells(prompts, counts, file, truth),
    }
    return Findings(
        checks=tuple(row_check(cells, subject=subject, engine=engine, name=name) for name, cells in rows.items()),
        matrix=tuple(MatrixRow(subject=subject, engine=engine, name=name, cells=cells) for name, cells in rows.items()),
    )


def _token_cells(
    prompts: tuple[str | NotSupported, ...], counts: tuple[int | NotSupported, ...], file: Embedded, truth: Truth
) -> tuple[Cell, ...]:
    try:
        ids = tuple(
            text if isinstance(text, NotSupported) else file.tokenize(text, add_special=True) for text in prompts
        )
    except ToolMissing as error:
        missing = NotSupported(code="NO_TOKENIZER", detail=error.message)
        return tuple(
            unanswered(conversation, expected, missing)
            for conversation, expected in zip(truth.conversations, truth.ids, strict=True)
        )
    return compare_tokens(truth.conversations, truth.ids, ids, piece=truth.reference.piece, counts=counts)


def _doors(engine: OllamaEngine, truth: Truth, steps: Steps, label: str, subject: str) -> Findings:
    asked = []
    for answered, max_tokens in zip(truth.answered, DOOR_TOKENS, strict=False):
        asked.append(ask_doors(engine, answered.conversation, max_tokens=max_tokens))
        steps.done(f"{label}: endpoints {answered.conversation.id}")
    return Findings(
        checks=(
            streaming_check(asked, subject=subject, engine=engine.name),
            openai_check(asked, subject=subject, engine=engine.name),
        )
    )
