"""vLLM as a column of the proof: its own render server, in the environment it is installed in.

Source: vLLM 0.32 `vllm launch render`, entrypoints/scale_out/render/api_router.py (`/v1/chat/completions/render`).
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from packager.artifacts import Conversation
from packager.codec import Json
from packager.engines import vllm_child
from packager.engines.engine import NotSupported
from packager.engines.foreign_python import find_python
from packager.errors import ToolMissing
from packager.formats.chat_messages import declared_tools, request_messages
from packager.process import stop

if TYPE_CHECKING:
    import httpx

VARIABLE = "PACKAGER_VLLM"
_START_TIMEOUT_S = 300.0
_TIMEOUT_S = 20.0
_MODEL = "probe"
# Nothing is looked up and nothing is reported.
_QUIET = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "WARNING"}


class Vllm:
    """A Hugging Face folder as vLLM serves it, from a server on the loopback; use it in a `with` statement.

    Args:
        folder: With the tokenizer and config.json.
        template: The file for `--chat-template`.
        log: Where the server's output goes.

    Raises:
        ToolMissing: vLLM is not installed.
    """

    name = "vllm"

    def __init__(self, folder: Path, template: Path, log: Path) -> None:
        self._python = find_python(self.name, VARIABLE)
        self._folder = folder
        self._template = template
        self._log = log
        self._server: subprocess.Popen[str] | None = None

    def version(self) -> str:
        """Give vLLM's version.

        Raises:
            ToolMissing: vLLM does not start.
        """
        return str(self._client.get("/version").json()["version"])

    def render(self, conversation: Conversation) -> NotSupported:
        """Say that vLLM shows token ids only."""
        return NotSupported(code="NO_TEXT", detail=f"vLLM shows token ids, not text (asked about {conversation.id})")

    def tokens(self, conversation: Conversation) -> tuple[int, ...] | NotSupported:
        """Give the ids that vLLM feeds to the model for a chat request."""
        import httpx

        body: dict[str, Json] = {"model": _MODEL, "messages": request_messages(conversation.messages)}
        if conversation.tools:
            # Declared all the same; any other choice asks for the parser of answers that the server was started with.
            body |= {"tools": declared_tools(conversation), "tool_choice": "none"}
        try:
            reply = self._client.post("/v1/chat/completions/render", json=body)
        except httpx.TimeoutException:
            self.close()
            return NotSupported(code="TEMPLATE_ERROR", detail=f"no answer in {_TIMEOUT_S:.0f} s")
        except httpx.HTTPError as error:
            raise ToolMissing(f"vLLM's server broke off ({error})", hint=f"Check {VARIABLE}.") from error
        answer = reply.json()
        if not reply.is_success:
            return NotSupported(code="TEMPLATE_ERROR", detail=_reason(answer))
        return tuple(answer["token_ids"])

    def generate(self, conversation: Conversation, *, max_tokens: int) -> NotSupported:
        """Say that nothing is generated: that needs a GPU."""
        return NotSupported(code="NO_MODEL", detail=f"only prompts are built here (asked about {conversation.id})")

    def close(self) -> None:
        """Stop the server."""
        client = self.__dict__.pop("_client", None)
        if client is not None:
            client.close()
        if self._server is not None:
            stop(self._server)
            self._server = None

    def __enter__(self) -> Vllm:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @cached_property
    def _client(self) -> httpx.Client:
        """Start the server and give a client of it once it answers."""
        import httpx

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [
            self._python, "-P", vllm_child.__file__, "launch", "render", self._folder, "--host", "127.0.0.1", "--port",
            port, "--chat-template", self._template, "--chat-template-content-format", "string",
            "--served-model-name", _MODEL,
        ]  # fmt: skip
        with self._log.open("w", encoding="utf-8") as log:
            self._server = subprocess.Popen(
                [str(word) for word in command],
                env={**os.environ, **_QUIET},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=_TIMEOUT_S)
        try:
            self._wait(self._server, client)
        except BaseException:
            client.close()
            self.close()
            raise
        return client

    def _wait(self, server: subprocess.Popen[str], client: httpx.Client) -> None:
        import httpx

        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline and server.poll() is None:
            try:
                if client.get("/version").is_success:
                    return
            except httpx.HTTPError:
                time.sleep(0.25)
        lines = [line for line in self._log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        raise ToolMissing(
            f"vLLM does not start: {lines[-1][:300] if lines else 'it says nothing'}", hint=f"Check {VARIABLE}."
        )


def _reason(answer: object) -> str:
    """Give the message of an error in OpenAI's form, in one line."""
    error = answer.get("error") if isinstance(answer, dict) else None
    message = error.get("message") if isinstance(error, dict) else answer
    return " ".join(str(message).split())[:200]
