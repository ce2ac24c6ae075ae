"""The side of the model: what builds its prompts, asked one conversation at a time."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Protocol

from packager.artifacts import Conversation
from packager.chat.pins import FIXED_DAY
from packager.chat.render import Renderer, RenderRefused, Setting
from packager.doctor.case import Ids, Patient
from packager.engines.engine import NotSupported
from packager.engines.llama_cpp import Embedded
from packager.engines.ollama import OllamaEngine
from packager.errors import InputInvalid, OllamaFailed, UnsafeInput
from packager.parity.prompts import Rendered
from packager.template_subjects import gguf_tokens

CANNOT_RUN = "CANNOT_RUN"


class Served(Protocol):
    """What is asked for prompts: the model in Ollama, or the template inside a file."""

    def render(self, conversation: Conversation) -> Rendered:
        """Give the text that the model gets for a conversation."""
        ...

    def ids(self, text: str, tokenizer: Embedded) -> Ids:
        """Give the token ids that llama-server makes of such a text."""
        ...

    def count(self, conversation: Conversation) -> int | NotSupported:
        """Give how many tokens the model evaluated for a conversation, from a real answer of one token."""
        ...


def served_by(patient: Patient, stack: ExitStack) -> Served:
    """Give what builds the model's prompts: the server that has it, or else the template inside its file."""
    if patient.server is not None:
        return _InOllama(OllamaEngine(patient.server, patient.name))
    return served_by_file(patient, stack) or _Nothing()


def served_by_file(patient: Patient, stack: ExitStack) -> Served | None:
    """Give the chat template inside the weights' file, None where there is none to look at."""
    template = patient.header.value("tokenizer.chat_template") if patient.header is not None else None
    if patient.header is None or not isinstance(template, str):
        return None
    tokens = gguf_tokens(patient.header)
    renderer = stack.enter_context(Renderer("the chat template in the GGUF", tokens))
    return _InFile(renderer, template, tokens.bos_token or "")


class _InOllama:
    """The model as the server runs it."""

    def __init__(self, engine: OllamaEngine) -> None:
        self._engine = engine

    def render(self, conversation: Conversation) -> Rendered:
        try:
            return self._engine.render(conversation)
        except OllamaFailed as error:  # a model that it cannot load is a finding, not the end
            return NotSupported(code=CANNOT_RUN, detail=error.message)

    def ids(self, text: str, tokenizer: Embedded) -> Ids:
        return tokenizer.tokenize(text, add_special=True)

    def count(self, conversation: Conversation) -> int | NotSupported:
        try:
            return self._engine.prompt_token_count(conversation)
        except OllamaFailed as error:
            return NotSupported(code=CANNOT_RUN, detail=error.message)


class _InFile:
    """The template inside a file, rendered as transformers does and tokenized as llama-server does."""

    def __init__(self, renderer: Renderer, template: str, bos: str) -> None:
        self._renderer = renderer
        self._template = template
        self._bos = bos

    def render(self, conversation: Conversation) -> Rendered:
        try:
            return rendered(self._renderer, self._template, conversation)
        except (InputInvalid, UnsafeInput) as error:
            return NotSupported(code="TEMPLATE_ERROR", detail=error.message)

    def ids(self, text: str, tokenizer: Embedded) -> Ids:
        adds_bos = bool(tokenizer.tokenize("", add_special=True))
        return tokenizer.tokenize(text.removeprefix(self._bos) if adds_bos else text, add_special=True)

    def count(self, conversation: Conversation) -> NotSupported:
        return NotSupported(code="NO_ENGINE", detail=f"nothing runs the file (asked about {conversation.id})")


class _Nothing:
    """A file without a chat template."""

    def render(self, conversation: Conversation) -> NotSupported:
        return NotSupported(
            code="NO_TEMPLATE", detail=f"there is no chat template in it (asked about {conversation.id})"
        )

    def ids(self, text: str, tokenizer: Embedded) -> Ids:
        return tokenizer.tokenize(text, add_special=True)

    def count(self, conversation: Conversation) -> NotSupported:
        return self.render(conversation)


def rendered(renderer: Renderer, template: str, conversation: Conversation) -> Rendered:
    """Give a prompt as transformers renders it, on the day that canonical templates are fixed to."""
    found = renderer.render(template, conversation, Setting(now=FIXED_DAY))
    return NotSupported(code="TEMPLATE_ERROR", detail=found.message) if isinstance(found, RenderRefused) else found


def without_bos(text: str, bos: str) -> str:
    """Give a prompt without the BOS in front of it, however often it stands there."""
    while bos and text.startswith(bos):
        text = text.removeprefix(bos)
    return text
