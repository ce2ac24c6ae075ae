"""Ollama as an engine: prompts and answers as a real server makes them for a registered model.

Unlike the embedded llama.cpp, which shows everything, Ollama shows the prompt's text (by a debug field), its length in tokens,
and the 20 likeliest tokens at most places of an answer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from packager.artifacts import Conversation
from packager.engines.engine import NotSupported, TokenLogprob
from packager.engines.ollama_answers import ServedAnswer
from packager.engines.ollama_api import OllamaRefused
from packager.engines.ollama_doors import Door, Question, ask, ask_raw
from packager.engines.ollama_openai import OPTIONS
from packager.engines.ollama_server import NOT_FOUND, Name, OllamaServer, Options
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
# Which token is taken says nothing about the probabilities, and one that ends the answer or is half a character would hide
# them: at this temperature any of 40 is taken, another one for each seed.
_ANY: Options = {"temperature": 1e6, "top_k": 40, "top_p": 1.0, "min_p": 0.0}
_SEEDS = 8


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
        return self.counted(self.answer(conversation, max_tokens=1))

    def counted(self, answer: ServedAnswer | NotSupported) -> int | NotSupported:
        """Give the same from an answer that is there already."""
        if isinstance(answer, NotSupported):
            return answer
        if answer.prompt_tokens is None or answer.cached_tokens is None:
            version = self._server.version
            return NotSupported(code="NO_PROMPT_COUNT", detail=f"Ollama {version} does not count cached prompt tokens")
        return answer.prompt_tokens

    def next_token(self, prompt: str, *, tokens: int, top: int = 20) -> tuple[TokenLogprob, ...] | NotSupported:
        """Give the `top` (1 to 20) likeliest tokens after a prompt that is given as text, special tokens in it recognised.

        Args:
            prompt: All that comes before; Ollama puts a beginning-of-sequence token in front where the model has one.
            tokens: How many tokens that is; another count is another prompt, and its probabilities are not given.
            top: How many tokens to give.
        """
        for seed in range(_SEEDS):
            options = {**_ANY, "seed": seed}
            found = self._asked(partial(ask_raw, self._server.api, self.model, prompt, options, top))
            if isinstance(found, NotSupported):
                return found
            if found.prompt_tokens != tokens:
                detail = f"it is {found.prompt_tokens} tokens in Ollama, {tokens} in the reference"
                return NotSupported(code="OTHER_TOKENS", detail=detail)
            if found.tokens and found.tokens[0].top:
                return found.tokens[0].top
        detail = f"Ollama {self._server.version} gave no probabilities of a token"
        return NotSupported(code="NO_LOGPROBS", detail=detail)

    def generate(self, conversation: Conversation, *, max_tokens: int) -> str | NotSupported:
        """Give the greedy answer, without special tokens, at most `max_tokens` tokens long.

        Where the template marks thinking, Ollama hands it out separately; the answer is then the part after it.
        """
        found = self.answer(conversation, max_tokens=max_tokens)
        return found if isinstance(found, NotSupported) else found.content

    def answer(
        self, conversation: Conversation, *, max_tokens: int, top_logprobs: int = 0
    ) -> ServedAnswer | NotSupported:
        """Give the greedy answer with all that Ollama says of it, its tokens where `top_logprobs` (0 to 20) asks for them.

        As with `generate`, no penalty that the model's parameters ask for applies.
        """
        return self.through(Door.NATIVE, conversation, max_tokens=max_tokens, top_logprobs=top_logprobs, options=GREEDY)

    def through(
        self,
        door: Door,
        conversation: Conversation,
        *,
        max_tokens: int,
        top_logprobs: int = 0,
        options: Options = OPTIONS,
    ) -> ServedAnswer | NotSupported:
        """Give the greedy answer as one of Ollama's endpoints gives it.

        Args:
            door: Which endpoint, streamed or whole.
            conversation: What to answer.
            max_tokens: The longest answer, in tokens.
            top_logprobs: How many tokens to give at each place, 0 to 20.
            options: Sampling values that replace the model's own; by default those that every door can carry.
        """
        question = Question(
            model=self.model, conversation=conversation, max_tokens=max_tokens, top_logprobs=top_logprobs
        )
        try:
            return self._asked(partial(ask, self._server.api, door, question, options))
        except OllamaRefused as error:
            if door.is_openai and error.status == NOT_FOUND and "model" not in error.message:
                return NotSupported(code="NO_OPENAI", detail=f"Ollama {self._server.version} has no such endpoint")
            raise

    def _asked(self, question: Callable[[], ServedAnswer]) -> ServedAnswer | NotSupported:
        try:
            return question()
        except OllamaRefused as error:
            return _refused(error)


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
