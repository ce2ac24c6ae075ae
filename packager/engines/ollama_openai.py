"""Ollama's OpenAI-compatible endpoint: a chat completion, whole or as server-sent events, read within the same caps.

What Ollama 0.34.0 does with such a request (openai/openai.go, `FromChatRequest`; middleware/openai.go, `ChatWriter`): it makes
a request of `/api/chat` of it, and turns the reply back. `max_tokens`, `temperature`, `seed`, the two penalties, `stop` and
`top_p` (1 when absent) become options; `repeat_penalty`, `top_k` and `min_p` have no field, so those of the model's parameters
hold. The native door is therefore comparable when it is asked with `OPTIONS` and nothing else: all that is not in it then comes
from the model's parameters through both.

Its stream is `data: {...}` lines, a finish chunk with an empty delta, a chunk with the counts and no choice where
`include_usage` asks for it, and `data: [DONE]`. An error in the middle of a stream is lost on the way: the stream then ends
without `[DONE]`.
"""

from __future__ import annotations

from collections.abc import Iterator

from packager.codec import Json
from packager.engines.ollama_answers import ServedAnswer, SpokenToken
from packager.engines.ollama_api import OllamaApi
from packager.engines.ollama_replies import count_of, read_logprobs, text_of
from packager.errors import OllamaFailed

PATH = "/v1/chat/completions"
# The likeliest token each time, as far as the endpoint has a field for it. `top_p` is what it sends when there is none.
OPTIONS: dict[str, int | float] = {
    "temperature": 0.0,
    "seed": 0,
    "top_p": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}


def ask_openai(api: OllamaApi, body: dict[str, Json], *, stream: bool) -> ServedAnswer:
    """Ask the endpoint and give the answer as the native one would.

    Args:
        api: The server.
        body: model, messages, tools, max_tokens, and logprobs with top_logprobs where wanted; sampling is `OPTIONS`.
        stream: Have it sent piece by piece.

    Raises:
        OllamaRefused: The server said no; status 404 where it has no such endpoint.
        OllamaFailed: The reply is no chat completion, or its stream broke off.
    """
    body = {**body, **OPTIONS, "stream": stream}
    if not stream:
        return _whole(api.send("POST", PATH, body), api.url)
    return _streamed(tuple(_events(api, {**body, "stream_options": {"include_usage": True}})), api.url)


def _events(api: OllamaApi, body: dict[str, Json]) -> Iterator[dict[str, Json]]:
    """Give the server-sent events up to `[DONE]`; a line that starts with a colon is a comment (HTML Standard, 9.2.6)."""
    for line in api.lines(PATH, body):
        field, _, data = line.strip().partition(b":")
        if not field:
            continue
        if field != b"data":
            raise OllamaFailed(f"Ollama at {api.url} answered {PATH} with a line that is no event: {line[:80]!r}")
        if data.strip() == b"[DONE]":
            return
        yield api.parsed(data, PATH)
    raise OllamaFailed(f"Ollama at {api.url} ended the stream of {PATH} without [DONE]")


def _whole(reply: dict[str, Json], url: str) -> ServedAnswer:
    choice = _choice(reply)
    message = choice.get("message") if choice is not None else None
    if choice is None or not isinstance(message, dict):
        raise OllamaFailed(f"Ollama at {url} answered {PATH} with something that is no chat completion")
    return _answer([choice], [message], reply)


def _streamed(events: tuple[dict[str, Json], ...], url: str) -> ServedAnswer:
    choices = [choice for event in events if (choice := _choice(event)) is not None]
    deltas = [choice["delta"] for choice in choices if isinstance(choice.get("delta"), dict)]
    if not choices or len(deltas) != len(choices):
        raise OllamaFailed(f"Ollama at {url} answered {PATH} with something that is no stream of a chat completion")
    return _answer(choices, deltas, events[-1])


def _answer(choices: list[dict[str, Json]], said: list[dict[str, Json]], counted: dict[str, Json]) -> ServedAnswer:
    usage = counted.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return ServedAnswer(
        content="".join(text_of(part, "content") for part in said),
        thinking="".join(text_of(part, "reasoning") for part in said),
        end="".join(text_of(choice, "finish_reason") for choice in choices),
        prompt_tokens=count_of(usage, "prompt_tokens"),
        cached_tokens=None,
        answer_tokens=count_of(usage, "completion_tokens"),
        tokens=tuple(token for choice in choices for token in _tokens(choice.get("logprobs"))),
    )


def _tokens(logprobs: Json) -> tuple[SpokenToken, ...]:
    tops, texts = read_logprobs(logprobs.get("content") if isinstance(logprobs, dict) else None)
    return tuple(SpokenToken(text=text, top=top) for text, top in zip(texts, tops, strict=True))


def _choice(reply: dict[str, Json]) -> dict[str, Json] | None:
    choices = reply.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else None
