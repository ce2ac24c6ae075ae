"""A model that is in Ollama only while it is looked at."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from packager.artifacts import Gguf
from packager.engines.ollama import OllamaEngine
from packager.engines.ollama_server import OllamaServer

PREFIX = "packager-probe-"


@contextmanager
def probe_model(server: OllamaServer, gguf: Gguf, *, template: str | None = None) -> Iterator[OllamaEngine]:
    """Register a file under a name of its own, give it as an engine, and remove it again.

    Args:
        server: Where.
        gguf: The file.
        template: A Go TEMPLATE, None for none.

    Raises:
        OllamaFailed: Ollama refused the file or the template.
    """
    name = f"{PREFIX}{secrets.token_hex(8)}"
    server.upload(gguf.path, gguf.sha256)
    try:
        server.create(name, files={gguf.path.name: gguf.sha256}, parameters={}, template=template)
        yield OllamaEngine(server, name)
    finally:
        server.delete(name)
