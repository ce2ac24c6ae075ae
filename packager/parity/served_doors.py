"""How a served model ends an answer, and whether every door of Ollama gives the same one.

Doors are compared with one another and not with the reference, under the model's own parameters: what an application gets
must not depend on the endpoint it uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packager.artifacts import Check, Conversation, Measure, Outcome
from packager.engines.engine import NotSupported
from packager.engines.ollama_answers import ServedAnswer
from packager.engines.ollama_doors import Door
from packager.errors import OllamaFailed
from packager.parity.differences import common_length
from packager.parity.judge import measure
from packager.parity.shown import TOP_TOKENS
from packager.parity.truth import ANSWER_TOKENS

if TYPE_CHECKING:
    from packager.engines.ollama import OllamaEngine

DOOR_TOKENS = (
    ANSWER_TOKENS,
    6,
)  # the longest answers of the first two conversations: one that ends, and one that is cut
_LOGPROB_NATS = 0.01  # the same computation twice; on a GPU its sums may be added in another order
_EXCERPT = 32

Reply = ServedAnswer | NotSupported | OllamaFailed


@dataclass(frozen=True, kw_only=True)
class Doors:
    """One conversation through every door, asked for the same greedy answer."""

    conversation: Conversation
    native: Reply
    others: tuple[tuple[Door, Reply], ...]


def ask_doors(engine: OllamaEngine, conversation: Conversation, *, max_tokens: int) -> Doors:
    """Ask one conversation through every door.

    Where another door differs, the first one is asked again: it may have read the whole prompt at once where the others
    found it in the cache, which rounds otherwise and can turn a tie.

    Raises:
        OllamaFailed: The native endpoint died or refused. What the OpenAI endpoint does wrong is in the reply.
    """

    def ask(door: Door) -> Reply:
        try:
            return engine.through(door, conversation, max_tokens=max_tokens, top_logprobs=TOP_TOKENS)
        except OllamaFailed as error:
            if door.is_openai:
                return error
            raise

    native = ask(Door.NATIVE)
    others = tuple((door, ask(door)) for door in (Door.NATIVE_WHOLE, Door.OPENAI, Door.OPENAI_WHOLE))
    if any(_difference(native, reply) for _, reply in others):
        native = ask(Door.NATIVE)
    return Doors(conversation=conversation, native=native, others=others)


def streaming_check(asked: Sequence[Doors], *, subject: str, engine: str) -> Check:
    """Judge whether a streamed answer is the whole one."""
    return _doors_check(asked, (Door.NATIVE_WHOLE,), subject=subject, engine=engine, name="streaming")


def openai_check(asked: Sequence[Doors], *, subject: str, engine: str) -> Check:
    """Judge whether the OpenAI-compatible endpoint gives the native one's answers, streamed and whole."""
    doors = (Door.OPENAI, Door.OPENAI_WHOLE)
    return _doors_check(asked, doors, subject=subject, engine=engine, name="openai endpoint")


def _doors_check(asked: Sequence[Doors], doors: tuple[Door, ...], *, subject: str, engine: str, name: str) -> Check:
    replies = [(one, door, reply) for one in asked for door, reply in one.others if door in doors]
    missing = [reply for one, _, reply in replies for reply in (one.native, reply) if isinstance(reply, NotSupported)]
    differences = [
        f"{one.conversation.id}: {door}: {difference}"
        for one, door, reply in replies
        if (difference := _difference(one.native, reply))
    ]
    equal = len(replies) - len(differences)
    measures: tuple[Measure, ...] = (measure("equal answers", equal, "answers", len(replies), at_least=True),)
    if not differences and (missing or not replies):
        reason = f"{missing[0].code}: {missing[0].detail}" if missing else "no conversation was answered"
        return Check(subject=subject, engine=engine, name=name, outcome=Outcome.NOT_CHECKED, detail=reason)
    outcome = Outcome.FAILED if differences else Outcome.PASSED
    detail = f"{equal} of {len(replies)} as {Door.NATIVE}" + "".join(f"; {text}" for text in differences[:1])
    return Check(subject=subject, engine=engine, name=name, outcome=outcome, detail=detail, measures=measures)


def _difference(expected: Reply, found: Reply) -> str:
    """Say in what an answer differs from another; empty when in nothing, or when there is nothing to compare."""
    if isinstance(found, OllamaFailed):
        return found.message
    if not isinstance(expected, ServedAnswer) or isinstance(found, NotSupported):
        return ""
    for name, ours, theirs in (
        ("text", expected.content, found.content),
        ("thinking", expected.thinking, found.thinking),
        ("end", expected.end, found.end),
        ("prompt tokens", expected.prompt_tokens, found.prompt_tokens),
        ("answer tokens", expected.answer_tokens, found.answer_tokens),
    ):
        if ours != theirs:
            return f"{name} {_excerpt(ours, theirs)!r} there, {_excerpt(theirs, ours)!r} here"
    return _other_probabilities(expected, found)


def _other_probabilities(expected: ServedAnswer, found: ServedAnswer) -> str:
    if not expected.tokens or not found.tokens:
        return ""
    if [token.text for token in expected.tokens] != [token.text for token in found.tokens]:
        return f"probabilities of {len(expected.tokens)} tokens there, of {len(found.tokens)} others here"
    for place, (ours, theirs) in enumerate(zip(expected.tokens, found.tokens, strict=True)):
        if not ours.top or not theirs.top or abs(ours.top[0].logprob - theirs.top[0].logprob) > _LOGPROB_NATS:
            return f"other probabilities at token {place + 1}"
    return ""


def _excerpt(value: str | int | None, other: str | int | None) -> str | int | None:
    """Give a text from where it parts from the other one; anything else as it is."""
    if not isinstance(value, str) or not isinstance(other, str):
        return value
    at = common_length(value, other)
    return value[at : at + _EXCERPT]
