"""The doors of one served model: the same question through each of Ollama's endpoints, and text continued as it is.

Unlike `ollama_chat.talk`, which hands out pieces for people to read as they come, this gives whole answers to compare.

Source: ollama 0.34.0, api/types.go (`ChatRequest`, `GenerateRequest`), server/routes.go (`GenerateHandler`: `raw` leaves the
prompt as it is).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from packager.artifacts import Conversation
from packager.codec import Json
from packager.engines.ollama_answers import ServedAnswer, joined
from packager.engines.ollama_api import OllamaApi
from packager.engines.ollama_messages import chat_messages
from packager.engines.ollama_openai import PATH, ask_openai
from packager.engines.ollama_replies import read_chunk
from packager.engines.ollama_server import Options
from packager.errors import OllamaFailed
from packager.formats.chat_messages import declared_tools, request_messages

_CHAT, _GENERATE = "/api/chat", "/api/generate"


class Door(StrEnum):
    """An endpoint, and whether it sends the answer piece by piece."""

    NATIVE = f"{_CHAT}, streamed"
    NATIVE_WHOLE = _CHAT
    OPENAI = f"{PATH}, streamed"
    OPENAI_WHOLE = PATH

    @property
    def is_openai(self) -> bool:
        """Whether it speaks OpenAI's protocol."""
        return self in (Door.OPENAI, Door.OPENAI_WHOLE)


@dataclass(frozen=True, kw_only=True)
class Question:
    """A conversation put to a model: the longest answer in tokens, and how many tokens to show at each place (0 to 20)."""

    model: str
    conversation: Conversation
    max_tokens: int
    top_logprobs: int = 0

    @property
    def body(self) -> dict[str, Json]:
        """What every endpoint calls the same."""
        tools = declared_tools(self.conversation)
        shown = {"logprobs": True, "top_logprobs": self.top_logprobs} if self.top_logprobs else {}
        return {"model": self.model, **({"tools": tools} if tools else {}), **shown}


def ask(api: OllamaApi, door: Door, question: Question, options: Options) -> ServedAnswer:
    """Put a question to one endpoint.

    Args:
        api: The server.
        door: The endpoint.
        question: The question.
        options: Sampling values that replace the model's own; the OpenAI endpoint has its own fixed ones and takes none.

    Raises:
        OllamaRefused: Ollama said no.
        OllamaFailed: It died, or answered with something else.
    """
    messages = question.conversation.messages
    match door:
        case Door.NATIVE | Door.NATIVE_WHOLE:
            options = {**options, "num_predict": question.max_tokens}
            # An early turn that is dropped to make room would be another question.
            body = {**question.body, "messages": chat_messages(messages), "options": options, "truncate": False}
            return _native(api, _CHAT, body, stream=door is Door.NATIVE)
        case Door.OPENAI | Door.OPENAI_WHOLE:
            body = {**question.body, "messages": request_messages(messages), "max_tokens": question.max_tokens}
            return ask_openai(api, body, stream=door is Door.OPENAI)


def ask_raw(api: OllamaApi, model: str, prompt: str, options: Options, top_logprobs: int) -> ServedAnswer:
    """Continue a text by one token, without any template.

    Raises:
        OllamaRefused: Ollama said no.
        OllamaFailed: It died, or answered with something else.
    """
    body: dict[str, Json] = {"model": model, "prompt": prompt, "raw": True, "truncate": False}
    shown = {"logprobs": True, "top_logprobs": top_logprobs, "options": {**options, "num_predict": 1}}
    return _native(api, _GENERATE, body | shown, stream=False)


def _native(api: OllamaApi, path: str, body: dict[str, Json], *, stream: bool) -> ServedAnswer:
    body = {**body, "stream": stream}
    replies = api.stream(path, body) if stream else iter((api.send("POST", path, body),))
    answer = joined(map(read_chunk, replies))
    if answer is None:
        raise OllamaFailed(f"{body['model']}: Ollama at {api.url} broke off in the middle of an answer")
    return answer
