"""The reference for prompts and token ids alone: transformers' tokenizer, without a model and without torch.

Unlike `packager.engines.transformers` it starts in two seconds, and a template that does not end cannot hang it.
"""

from __future__ import annotations

import json
import sys
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

from packager.artifacts import Conversation
from packager.engines import tokenizer_child
from packager.engines.engine import NotSupported
from packager.errors import InputInvalid, UnsafeInput
from packager.formats.chat_messages import declared_tools, template_messages
from packager.worker_process import WorkerFailed, WorkerProcess

_LOAD_TIMEOUT_S = 120.0
_TIMEOUT_S = 10.0
_ANSWER_BYTES = 64 << 20


class TokenizerReference:
    """A folder's tokenizer with a chat template, in a process of its own; close it, or use it in a `with` statement.

    Args:
        folder: A Hugging Face folder; only its config and tokenizer files are read.
        template: The chat template's Jinja text; the folder's own one is not used.
    """

    name = "transformers"

    def __init__(self, folder: Path, template: str) -> None:
        self._folder = folder
        self._template = template
        command = (sys.executable, "-P", str(Path(tokenizer_child.__file__)), str(folder))
        self._worker = WorkerProcess(command)

    def version(self) -> str:
        """Give transformers' version."""
        return self._about[1]

    @property
    def bos_text(self) -> str:
        """The tokenizer's beginning-of-sequence token, empty when it has none."""
        return self._about[0]

    def render(self, conversation: Conversation) -> str | NotSupported:
        """Give the prompt that `apply_chat_template` builds, or why the template refused the conversation."""
        found = self._prompt(conversation)
        return found if isinstance(found, NotSupported) else found[0]

    def tokens(self, conversation: Conversation) -> tuple[int, ...] | NotSupported:
        """Give the prompt's token ids; special tokens come from the template alone, as in training."""
        found = self._prompt(conversation)
        return found if isinstance(found, NotSupported) else found[1]

    def generate(self, conversation: Conversation, *, max_tokens: int) -> NotSupported:
        """Say that there is no model."""
        return NotSupported(code="NO_MODEL", detail=f"a tokenizer gives no answer (asked about {conversation.id})")

    def encode(self, text: str) -> tuple[int, ...]:
        """Give the tokenizer's ids of a text, special tokens in it recognised and none added."""
        return tuple(self._ask({"text": text})["ids"])

    def piece(self, token_id: int) -> str:
        """Give one token as people read it, special tokens included."""
        return str(self._ask({"ids": [token_id]})["pieces"][0])

    def close(self) -> None:
        """End the process."""
        self._worker.close()
        self.__dict__.pop("_about", None)

    def __enter__(self) -> TokenizerReference:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prompt(self, conversation: Conversation) -> tuple[str, tuple[int, ...]] | NotSupported:
        messages, tools = template_messages(conversation.messages), declared_tools(conversation)
        answer = self._ask({"messages": messages, "tools": tools, "template": self._template})
        if "refused" in answer:
            return NotSupported(code="TEMPLATE_ERROR", detail=answer["refused"])
        return answer["prompt"], tuple(answer["ids"])

    @cached_property
    def _about(self) -> tuple[str, str]:
        try:
            line = self._worker.ask(b"{}", timeout_s=_LOAD_TIMEOUT_S, limit_bytes=_ANSWER_BYTES)
        except WorkerFailed as error:
            raise self._unreadable(str(error)) from error
        answer = json.loads(line)
        if "invalid" in answer:
            raise self._unreadable(answer["invalid"])
        return answer["bos"], answer["version"]

    def _ask(self, question: dict[str, object]) -> dict[str, Any]:  # the child's JSON
        _ = self._about  # loads the tokenizer, once
        try:
            line = self._worker.ask(json.dumps(question).encode(), timeout_s=_TIMEOUT_S, limit_bytes=_ANSWER_BYTES)
        except WorkerFailed as error:
            self.close()
            raise UnsafeInput(
                f"{self._folder}: the chat template {error}", hint="Pass another template with --template FILE."
            ) from error
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _unreadable(self, reason: str) -> InputInvalid:
        return InputInvalid(
            f"{self._folder}: transformers cannot load the tokenizer ({reason})",
            hint="Copy the tokenizer files of the base into the folder.",
        )
