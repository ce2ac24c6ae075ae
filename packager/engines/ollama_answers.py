"""One whole answer of a served model, the same value through whichever door of Ollama it came."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from packager.engines.engine import TokenLogprob
from packager.engines.ollama_replies import ChatChunk


@dataclass(frozen=True, kw_only=True)
class SpokenToken:
    """A token of an answer: its text, and the most likely tokens at its place, the likeliest first.

    `text` begins with what Ollama held back before it: the first bytes of a character, or what could have become a stop
    text. Held-back tokens have no entry of their own, and neither has a token that ends the answer.
    """

    text: str
    top: tuple[TokenLogprob, ...]


@dataclass(frozen=True, kw_only=True)
class ServedAnswer:
    """What Ollama answered.

    Attributes:
        content: Its text, without special tokens and without what the template marks as thinking.
        thinking: That thinking.
        end: `stop` where the model or a stop text ended it, `length` where it was cut; empty where Ollama does not say.
        prompt_tokens: Length of the prompt, None where Ollama does not count it.
        cached_tokens: How many of them came from the cache.
        answer_tokens: Length of the answer, the token that ended it included.
        tokens: Every token that Ollama shows, where that was asked for.
    """

    content: str
    thinking: str
    end: str
    prompt_tokens: int | None
    cached_tokens: int | None
    answer_tokens: int | None
    tokens: tuple[SpokenToken, ...]


def joined(pieces: Iterable[ChatChunk]) -> ServedAnswer | None:
    """Join the pieces of an answer; None when the last one does not say that it is the last."""
    chunks = tuple(pieces)
    if not chunks or not chunks[-1].done:
        return None
    last = chunks[-1]
    return ServedAnswer(
        content="".join(chunk.content for chunk in chunks),
        thinking="".join(chunk.thinking for chunk in chunks),
        end=last.end,
        prompt_tokens=last.prompt_tokens,
        cached_tokens=last.cached_tokens,
        answer_tokens=last.answer_tokens,
        tokens=tuple(token for chunk in chunks for token in spoken_tokens(chunk)),
    )


def spoken_tokens(chunk: ChatChunk) -> tuple[SpokenToken, ...]:
    """Give the tokens of one piece."""
    return tuple(SpokenToken(text=text, top=top) for text, top in zip(chunk.spoken, chunk.logprobs, strict=True))
