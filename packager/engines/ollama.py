"""Ollama as an engine: prompts and answers as a real server makes them for a registered model.

Unlike the embedded llama.cpp, which shows everything, Ollama shows the prompt's text (by a debug field), its length in tokens,
and the 20 likeliest first tokens of an answer.
"""

from __future__ import annotations

from packager.artifacts import Conversation
from packager.engines.engine import NotSupported, TokenLogprob
from packager.engines.ollama_api import OllamaRefused
from packager.engines.ollama_replies import ChatChunk
from packager.engines.ollama_server import Name, OllamaServer, Options
from packager.errors import OllamaFailed
from packager.formats.chat_messages import declared_tools

__all__ = ["GREEDY", "OllamaEngine", "OllamaServer"]

# The likeliest token each time, whatever sampling the model's parameters ask for.
GREEDY: Options = {
    "temperature": 0.0,
    "seed": 0,
    "repeat_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}


class OllamaEngine:
    """One registered model as a column of the proof: prompts and answers as this server really makes them."""

    name = "ollama"

    def __init__(self, server: OllamaServer, model: Name) -> None:
        self._server = server
        self.model = str(model)

    def version(self) -> str:
        """Give the server's version."""
        return self._server.version

    def render(self, conversation: Conversation) -> str | NotSupported:
        """Give the prompt text Ollama builds, by its debug field; or why not, the template's own refusal included."""
        try:
            text = self._server.render(self.model, conversation.messages, tools=declared_tools(conversation))
        except OllamaRefused as error:
            return _refused(error)
        if text is None:
            version = self._server.version
            return NotSupported(code="NO_DEBUG_RENDER", detail=f"Ollama {version} does not show the prompt it builds")
        return text

    def tokens(self, conversation: Conversation) -> NotSupported:
        """Say that there are no token ids: Ollama has no tokenizer in its API. See `prompt_token_count`."""
        return NotSupported(code="NO_TOKENIZER", detail=f"Ollama has no tokenizer API (asked about {conversation.id})")

    def prompt_token_count(self, conversation: Conversation) -> int | NotSupported:
        """Give how many tokens Ollama fed to the model, from a real answer of one token.

        The count includes what came from the prompt cache. An Ollama that does not report the cached part could mean
        either, so its count is not used.
        """
        last = self._ask(conversation, max_tokens=1)
        if isinstance(last, NotSupported):
            return last
        if last[-1].prompt_tokens is None or last[-1].cached_tokens is None:
            version = self._server.version
            return NotSupported(code="NO_PROMPT_COUNT", detail=f"Ollama {version} does not count cached prompt tokens")
        return last[-1].prompt_tokens

    def first_token(self, conversation: Conversation, top: int = 20) -> tuple[TokenLogprob, ...] | NotSupported:
        """Give the `top` (1 to 20) likeliest first tokens of the answer, the likeliest first.

        The probabilities are the model's own, before sampling: natural logarithms over the whole vocabulary.
        """
        chunks = self._ask(conversation, max_tokens=1, top_logprobs=top)
        if isinstance(chunks, NotSupported):
            return chunks
        for chunk in chunks:
            if chunk.logprobs:
                return chunk.logprobs[0]
        version = self._server.version
        return NotSupported(code="NO_LOGPROBS", detail=f"Ollama {version} gave no probabilities for the first token")

    def generate(self, conversation: Conversation, *, max_tokens: int) -> str | NotSupported:
        """Give the greedy answer, without special tokens, at most `max_tokens` tokens long.

        Where the template marks thinking, Ollama hands it out separately; the answer is then the part after it.
        """
        chunks = self._ask(conversation, max_tokens=max_tokens)
        return chunks if isinstance(chunks, NotSupported) else "".join(chunk.content for chunk in chunks)

    def _ask(
        self, conversation: Conversation, *, max_tokens: int, top_logprobs: int = 0
    ) -> tuple[ChatChunk, ...] | NotSupported:
        options = {**GREEDY, "num_predict": max_tokens}
        try:
            chunks = tuple(
                self._server.chat(
                    self.model,
                    conversation.messages,
                    tools=declared_tools(conversation),
                    options=options,
                    top_logprobs=top_logprobs,
                    truncate=False,
                )
            )
        except OllamaRefused as error:
            return _refused(error)
        if not chunks or not chunks[-1].done:
            raise OllamaFailed(f"{self.model}: Ollama at {self._server.url} broke off in the middle of an answer")
        return chunks


def _refused(error: OllamaRefused) -> NotSupported:
    """Give what the template or the context says no to as a cell of the table; every other refusal ends the run."""
    text = error.message.lower()
    if "does not support tools" in text:
        return NotSupported(code="NO_TOOLS", detail=error.message)
    if "cannot unmarshal" in text:  # a declaration or a call that does not fit its types
        return NotSupported(code="REFUSED", detail=error.message)
    if "context size" in text or "context length" in text:
        return NotSupported(code="CONTEXT_FULL", detail=error.message)
    if "jinja" in text or "template" in text:
        return NotSupported(code="TEMPLATE_ERROR", detail=error.message)
    raise error
