"""What every engine can be asked, so that an engine is one more column of the proof.

An engine that cannot answer a question says so with `NotSupported`, a value, not an exception: "not supported" is a cell of
a table, while an exception is the end of a run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from packager.artifacts import Conversation


@dataclass(frozen=True, kw_only=True)
class NotSupported:
    """Why an engine gave no answer: a reason code of docs/templates.md and one line."""

    code: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class TokenLogprob:
    """A token the engine could have said next: its text and the natural logarithm of its probability."""

    text: str
    logprob: float


class Engine(Protocol):
    """One way to run a model. Prompts always end with the header of the assistant's turn."""

    name: str

    def version(self) -> str:
        """Give the engine's version as it reports itself."""
        ...

    def render(self, conversation: Conversation) -> str | NotSupported:
        """Give the prompt text this engine builds for a conversation."""
        ...

    def tokens(self, conversation: Conversation) -> tuple[int, ...] | NotSupported:
        """Give the token ids this engine feeds to the model for a conversation."""
        ...

    def generate(self, conversation: Conversation, *, max_tokens: int) -> str | NotSupported:
        """Give the greedy answer, without special tokens, at most `max_tokens` tokens long."""
        ...
