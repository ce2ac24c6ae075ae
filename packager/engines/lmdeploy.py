"""LMDeploy as a column of the proof: its own `model.py` and tokenizer, in the environment it is installed in."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

from packager.artifacts import Conversation
from packager.engines import lmdeploy_child
from packager.engines.engine import NotSupported
from packager.engines.foreign_python import find_python
from packager.errors import ToolMissing
from packager.formats.chat_messages import declared_tools, request_messages
from packager.worker_process import WorkerFailed, WorkerProcess

VARIABLE = "PACKAGER_LMDEPLOY"
_LOAD_TIMEOUT_S = 180.0
_TIMEOUT_S = 20.0
_ANSWER_BYTES = 64 << 20


class Lmdeploy:
    """A Hugging Face folder as LMDeploy serves it; close it, or use it in a `with` statement.

    Args:
        folder: With the tokenizer, config.json and the chat template.
        form: LMDeploy's JSON file; None for `--chat-template hf`.

    Raises:
        ToolMissing: LMDeploy is not installed.
    """

    name = "lmdeploy"

    def __init__(self, folder: Path, form: Path | None) -> None:
        python = find_python(self.name, VARIABLE)
        child = Path(lmdeploy_child.__file__)
        self._worker = WorkerProcess((str(python), "-P", str(child), str(folder), str(form or "hf")))

    def version(self) -> str:
        """Give LMDeploy's version.

        Raises:
            ToolMissing: LMDeploy does not start.
        """
        return self._version

    def render(self, conversation: Conversation) -> str | NotSupported:
        """Give the prompt that LMDeploy's template object builds."""
        found = self._prompt(conversation)
        return found if isinstance(found, NotSupported) else str(found["prompt"])

    def tokens(self, conversation: Conversation) -> tuple[int, ...] | NotSupported:
        """Give the ids that LMDeploy's server feeds to the model: special tokens added, a doubled BOS removed."""
        found = self._prompt(conversation)
        return found if isinstance(found, NotSupported) else tuple(found["ids"])

    def generate(self, conversation: Conversation, *, max_tokens: int) -> NotSupported:
        """Say that nothing is generated: the server needs a GPU."""
        return NotSupported(code="NO_MODEL", detail=f"only prompts are built here (asked about {conversation.id})")

    def close(self) -> None:
        """End the process."""
        self._worker.close()
        self.__dict__.pop("_version", None)

    def __enter__(self) -> Lmdeploy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prompt(self, conversation: Conversation) -> dict[str, Any] | NotSupported:  # the child's JSON
        _ = self._version  # loads it, once
        asked = {"messages": request_messages(conversation.messages), "tools": declared_tools(conversation)}
        try:
            line = self._worker.ask(json.dumps(asked).encode(), timeout_s=_TIMEOUT_S, limit_bytes=_ANSWER_BYTES)
        except WorkerFailed as error:
            self.close()
            return NotSupported(code="TEMPLATE_ERROR", detail=f"the chat template {error}")
        answer: dict[str, Any] = json.loads(line)
        if "refused" in answer:
            return NotSupported(code="TEMPLATE_ERROR", detail=answer["refused"])
        return answer

    @cached_property
    def _version(self) -> str:
        try:
            line = self._worker.ask(b"", timeout_s=_LOAD_TIMEOUT_S, limit_bytes=_ANSWER_BYTES)
        except WorkerFailed as error:
            raise ToolMissing(f"LMDeploy does not start: its process {error}", hint=f"Check {VARIABLE}.") from error
        answer = json.loads(line)
        if "failed" in answer:
            raise ToolMissing(f"LMDeploy does not start: {answer['failed']}", hint=f"Check {VARIABLE}.")
        return str(answer["version"])
