"""What stands in Ollama's place on the OpenAI-compatible endpoint can send: an answer, or one line of what is wrong."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packager.artifacts import Conversation, Message
from packager.engines import ollama_api
from packager.engines.engine import NotSupported, TokenLogprob
from packager.engines.ollama import OllamaEngine, OllamaServer
from packager.engines.ollama_answers import ServedAnswer, SpokenToken
from packager.engines.ollama_doors import Door
from packager.engines.ollama_openai import PATH
from packager.errors import OllamaFailed
from tests.engines.ollama_faults import Fault, faulty

PROBE = Conversation(id="hello", group="CORE", messages=(Message(role="user", content="Hello"),))
# Taken from Ollama 0.34.0, shortened.
LOGPROBS = {"content": [{"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": [
    {"token": "Hi", "logprob": -0.5}, {"token": "Hey", "logprob": -1.5},
]}]}  # fmt: skip
USAGE = {
    "prompt_tokens": 31,
    "prompt_tokens_details": {"cached_tokens": 30},
    "completion_tokens": 2,
    "total_tokens": 33,
}
WHOLE = {
    "object": "chat.completion",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop", "logprobs": LOGPROBS}
    ],
    "usage": USAGE,
}
CHUNKS = [
    {
        "choices": [
            {"index": 0, "delta": {"role": "assistant", "content": "Hi"}, "finish_reason": None, "logprobs": LOGPROBS}
        ]
    },
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    {"choices": [], "usage": USAGE},
]
ANSWER = ServedAnswer(
    content="Hi",
    thinking="",
    end="stop",
    prompt_tokens=31,
    cached_tokens=None,
    answer_tokens=2,
    tokens=(
        SpokenToken(text="Hi", top=(TokenLogprob(text="Hi", logprob=-0.5), TokenLogprob(text="Hey", logprob=-1.5))),
    ),
)


def events(*values: object) -> list[object]:
    return [b"data: " + json.dumps(value).encode() + b"\n\n" for value in values]


DONE: list[object] = [b"data: [DONE]\n\n"]


def ask(fault: Fault, door: Door) -> ServedAnswer | NotSupported:
    with faulty(fault) as url:
        return OllamaEngine(OllamaServer.connect(url), "x").through(door, PROBE, max_tokens=7, top_logprobs=2)


def stream(*lines: object) -> ServedAnswer | NotSupported:
    return ask(Fault(lines={PATH: list(lines)}), Door.OPENAI)


def test_whole() -> None:
    fault = Fault(replies={PATH: (200, WHOLE)})
    assert ask(fault, Door.OPENAI_WHOLE) == ANSWER
    assert fault.bodies == [
        {
            "model": "x",
            "messages": [{"role": "user", "content": "Hello"}],
            "max_tokens": 7,
            "logprobs": True,
            "top_logprobs": 2,
            "temperature": 0.0,
            "seed": 0,
            "top_p": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "stream": False,
        }
    ]


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param([*events(*CHUNKS), *DONE], id="as Ollama sends it"),
        pytest.param([b": comment\n\n", *events(*CHUNKS), *DONE], id="with a comment"),
        pytest.param(
            [b"data:" + json.dumps(chunk).encode() + b"\r\n\r\n" for chunk in CHUNKS] + DONE, id="other line ends"
        ),
        pytest.param([*events(*CHUNKS), *DONE, b"data: garbage\n\n"], id="more after the end"),
    ],
)
def test_streamed(lines: list[object]) -> None:
    assert stream(*lines) == ANSWER


def test_reasoning_is_thinking() -> None:
    chunk = {"choices": [{"delta": {"reasoning": "2 + 2"}}]}
    found = stream(*events(chunk, *CHUNKS), *DONE)
    assert isinstance(found, ServedAnswer)
    assert (found.thinking, found.content) == ("2 + 2", "Hi")


def test_without_counts_none_are_made_up() -> None:
    found = stream(*events(*CHUNKS[:2]), *DONE)
    assert isinstance(found, ServedAnswer)
    assert (found.prompt_tokens, found.answer_tokens) == (None, None)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        pytest.param([], "ended the stream of /v1/chat/completions without .DONE.", id="nothing"),
        pytest.param(events(*CHUNKS), "without .DONE.", id="no end"),
        pytest.param(DONE, "no stream of a chat completion", id="an end alone"),
        pytest.param([b"data: {\n\n", *DONE], "no JSON", id="half an object"),
        pytest.param([b"data: [1]\n\n", *DONE], "no JSON object", id="a list"),
        pytest.param([b"event: x\n\n", *DONE], "a line that is no event: b'event: x'", id="another field"),
        pytest.param([b"<html>\n", *DONE], "a line that is no event", id="a page"),
        pytest.param([*events({"choices": [{"message": {}}]}), *DONE], "no stream of a chat completion", id="no delta"),
        pytest.param(
            [*events({"error": {"message": "out of memory", "type": "api_error"}}), *DONE],
            "out of memory",
            id="an error",
        ),
    ],
)
def test_what_is_no_stream_of_a_completion(lines: list[object], message: str) -> None:
    with pytest.raises(OllamaFailed, match=message):
        stream(*lines)


@pytest.mark.parametrize(
    "reply", [{}, {"choices": []}, {"choices": [7]}, {"choices": [{"message": "Hi"}]}, [1], b"", b"<html>"], ids=repr
)
def test_what_is_no_completion(reply: object) -> None:
    with pytest.raises(OllamaFailed, match="something that is no"):
        ask(Fault(replies={PATH: (200, reply)}), Door.OPENAI_WHOLE)


@pytest.mark.parametrize("door", [Door.OPENAI, Door.OPENAI_WHOLE], ids=lambda door: door.name)
@pytest.mark.parametrize(
    "reply",
    [b"404 page not found", {"error": {"message": "Not Found", "type": "not_found_error"}}],
    ids=["text", "json"],
)
def test_a_server_without_the_endpoint(door: Door, reply: object) -> None:
    found = ask(Fault(replies={PATH: (404, reply)}), door)
    assert isinstance(found, NotSupported)
    assert (found.code, found.detail) == ("NO_OPENAI", "Ollama 0.34.0 has no such endpoint")


def test_a_model_that_is_gone_is_no_missing_endpoint() -> None:
    reply = {"error": {"message": "model 'x' not found", "type": "not_found_error", "param": None, "code": None}}
    with pytest.raises(OllamaFailed, match=r"refused: model 'x' not found$"):
        ask(Fault(replies={PATH: (404, reply)}), Door.OPENAI)


def test_a_line_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ollama_api, "LINE_LIMIT_BYTES", 1 << 20)
    with pytest.raises(OllamaFailed, match="a line of over 1048576 bytes"):
        ask(Fault(endless=PATH), Door.OPENAI)


def test_a_reply_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ollama_api, "REPLY_LIMIT_BYTES", 1 << 20)
    with pytest.raises(OllamaFailed, match="more than 1048576 bytes"):
        ask(Fault(endless=PATH), Door.OPENAI_WHOLE)


def test_a_connection_that_breaks() -> None:
    with pytest.raises(OllamaFailed, match="broke off in /v1/chat/completions"):
        ask(Fault(lines={PATH: [*events(*CHUNKS), *DONE]}, breaks=2), Door.OPENAI)


@settings(max_examples=25, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(
                st.sampled_from(["choices", "delta", "content", "logprobs", "usage", "prompt_tokens", "finish_reason"]),
                inner,
                max_size=3,
            )
        ),
        max_leaves=8,
    )
)
def test_any_event_is_an_answer_or_one_line(event: object) -> None:
    with contextlib.suppress(OllamaFailed):
        assert isinstance(stream(*events(CHUNKS[0], event), *DONE), ServedAnswer)
