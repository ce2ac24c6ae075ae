"""Talking to a registered model through Ollama's own Python client, as an application would.

Unlike `ollama_server`, which puts models into the store and asks what no application asks, this needs nothing that the client
does not have.
"""

from __future__ import annotations

from collections.abc import Iterator

from packager.artifacts import Message
from packager.engines.ollama_replies import ChatChunk
from packager.errors import OllamaFailed

# The client would send the key in OLLAMA_API_KEY to whatever server it talks to; an empty user and password is sent instead.
_NO_KEY = {"authorization": "Basic Og=="}
_CONNECT_TIMEOUT_S = 10.0


def talk(url: str, name: str, messages: tuple[Message, ...]) -> Iterator[ChatChunk]:
    """Answer a conversation piece by piece with the model's own sampling; closing the iterator stops the answer.

    Args:
        url: Address of the server.
        name: The model.
        messages: The turns so far.

    Raises:
        OllamaFailed: Ollama refused, or died in the middle.
    """
    import httpx
    import ollama

    timeout = httpx.Timeout(None, connect=_CONNECT_TIMEOUT_S)
    client = ollama.Client(host=url, trust_env=False, timeout=timeout, headers=_NO_KEY)
    turns = [ollama.Message(role=message.role, content=message.content) for message in messages]
    try:
        for part in client.chat(model=name, messages=turns, stream=True):
            said = part.message
            yield ChatChunk(content=said.content or "", thinking=said.thinking or "", done=bool(part.done))
    except ollama.ResponseError as error:
        reason = " ".join(error.error.split())
        raise OllamaFailed(f"{name}: Ollama at {url} refused: {reason}", hint="See `ollama list`.") from error
    except (httpx.HTTPError, ConnectionError, ValueError) as error:  # ValueError: a reply that is not what Ollama sends
        raise OllamaFailed(
            f"{name}: the answer of Ollama at {url} broke off ({type(error).__name__})",
            hint="Look into Ollama's log; then run the command again.",
        ) from error
