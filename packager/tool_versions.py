"""The versions that decide what a build writes or finds."""

from __future__ import annotations

from importlib.metadata import version

_ENGINES = ("llama-cpp-python", "gguf", "transformers", "peft", "torch", "ollama-packager")


def tool_versions() -> tuple[str, ...]:
    """Give `name version` of every package that decides what a build writes or finds."""
    return tuple(f"{name} {version(name)}" for name in _ENGINES)
