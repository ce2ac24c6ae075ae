"""What a served model is asked about one conversation, and what its answers amount to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packager.artifacts import Check, Conversation, Outcome
from packager.engines.engine import NotSupported
from packager.engines.llama_cpp import Embedded
from packager.engines.ollama_answers import ServedAnswer
from packager.parity.embedded import answer_text, match_answer
from packager.parity.findings import Findings
from packager.parity.gates import QuantGates
from packager.parity.judge import answers_check
from packager.parity.served_distribution import Followed, distribution_findings, follow
from packager.parity.served_stops import Cut, cut_length, stops_check
from packager.parity.shown import TOP_TOKENS, ShownVocabulary
from packager.parity.truth import ANSWER_TOKENS, GREEDY_ANSWERS, Answered, Truth

if TYPE_CHECKING:
    from packager.engines.ollama import OllamaEngine


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One conversation put to a served model.

    Attributes:
        prompt: The prompt's text as Ollama builds it.
        count: How many tokens Ollama fed to the model.
        spoken: Its greedy answer, where the reference has one to compare it with.
        followed: The reference's answer followed in Ollama; why not where it was not.
    """

    prompt: str | NotSupported
    count: int | NotSupported
    spoken: tuple[Answered, ServedAnswer | NotSupported] | None = None
    followed: Followed | NotSupported | None = None


def ask_served(
    engine: OllamaEngine,
    conversation: Conversation,
    answered: Answered | None,
    file: Embedded,
    vocabulary: ShownVocabulary | NotSupported,
    *,
    beside_file: bool,
) -> Asked:
    """Put one conversation to a served model; a CORE one is answered, and the reference's answer followed right behind it.

    Args:
        engine: The model in Ollama.
        conversation: What to ask.
        answered: The reference's answer, None where it has none.
        file: The same GGUF embedded.
        vocabulary: Its vocabulary, or why there is none.
        beside_file: Have the file say how sure it is of the reference's answer too.

    Raises:
        OllamaFailed: The server died or refused.
        InputInvalid: llama.cpp cannot evaluate the file.
    """
    prompt = engine.render(conversation)
    if answered is None:
        return Asked(prompt=prompt, count=engine.prompt_token_count(conversation))
    found = engine.answer(conversation, max_tokens=ANSWER_TOKENS, top_logprobs=TOP_TOKENS)
    followed: Followed | NotSupported
    if isinstance(found, NotSupported):
        followed = found
    elif isinstance(vocabulary, NotSupported):
        followed = vocabulary
    else:
        followed = follow(engine, answered, prompt, found, file, vocabulary, beside_file=beside_file)
    return Asked(prompt=prompt, count=engine.counted(found), spoken=(answered, found), followed=followed)


def answer_findings(
    engine: OllamaEngine, asked: Sequence[Asked], truth: Truth, gates: QuantGates, *, subject: str
) -> Findings:
    """Judge the answers of one registered model.

    Returns:
        Checks `distribution`, `same file`, `first token`, `answers` and `stops`, in this order.

    Raises:
        OllamaFailed: The server died or refused.
    """
    followed = [one.followed for one in asked if one.followed is not None]
    missing = next((one for one in followed if isinstance(one, NotSupported)), None)
    if missing is not None:
        distributions = _not_checked(missing, "distribution", "same file", "first token", subject=subject)
    else:
        whole = [one for one in followed if isinstance(one, Followed)]
        distributions = distribution_findings(whole, truth, gates, subject=subject, engine=engine.name)
    return distributions + _texts(engine, asked, truth, gates, subject=subject)


def _texts(engine: OllamaEngine, asked: Sequence[Asked], truth: Truth, gates: QuantGates, *, subject: str) -> Findings:
    spoken: list[tuple[Answered, ServedAnswer]] = []
    for one in asked:
        if one.spoken is None:
            continue
        answered, found = one.spoken
        if isinstance(found, NotSupported):
            return _not_checked(found, "answers", "stops", subject=subject)
        spoken.append((answered, found))
    matches = tuple(
        match_answer(one.conversation.id, one.answer, found.content, truth) for one, found in spoken[:GREEDY_ANSWERS]
    )
    return Findings(
        checks=(
            answers_check(matches, gates, subject=subject, engine=engine.name),
            stops_check(spoken, _cut(engine, spoken), truth, gates, subject=subject, engine=engine.name),
        ),
        answers=tuple(
            answer_text(one.conversation.id, one.answer, found.content, subject=subject, engine=engine.name)
            for one, found in spoken
        ),
    )


def _cut(engine: OllamaEngine, spoken: Sequence[tuple[Answered, ServedAnswer]]) -> Cut | None:
    """Ask once more for the first answer that is long enough to be cut."""
    for answered, whole in spoken:
        if max_tokens := cut_length(whole):
            found = engine.answer(answered.conversation, max_tokens=max_tokens)
            return Cut(conversation=answered.conversation.id, max_tokens=max_tokens, found=found)
    return None


def _not_checked(why: NotSupported, *names: str, subject: str) -> Findings:
    reason = f"{why.code}: {why.detail}"
    return Findings(
        checks=tuple(
            Check(subject=subject, engine="ollama", name=name, outcome=Outcome.NOT_CHECKED, detail=reason)
            for name in names
        )
    )
