"""Engines over ten tokens and without weights: for what a real engine will not answer on demand.

All three agree unless a test changes one of them. A vocabulary of ten and fixed rows let every expected value be written out
by hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from packager.artifacts import Conversation, Message
from packager.engines.engine import NotSupported, TokenLogprob
from packager.engines.llama_cpp import Embedded
from packager.engines.ollama import OllamaEngine
from packager.engines.transformers import Answer, Reference
from packager.parity.truth import Answered, Truth

PIECES = ("<bos>", "<user>", "<assistant>", "<system>", "Hi", "Bye", "one", "two", "<end>", "?")
BOS, ONE, TWO, END = 0, 6, 7, 8
REFUSED = NotSupported(code="TEMPLATE_ERROR", detail="roles must alternate")
Rows = NDArray[np.float32]


def row(**shares: float) -> Rows:
    """Give log-probabilities over PIECES: those named, and the rest in equal parts."""
    rest = (1 - sum(shares.values())) / (len(PIECES) - len(shares))
    return np.log(np.array([shares.get(piece.strip("<>"), rest) for piece in PIECES], dtype=np.float64)).astype("f4")


# The answer "onetwo<end>": sure of "one", nearly undecided at "two", sure of the end.
ROWS: Rows = np.stack([row(one=0.82), row(two=0.44, one=0.40), row(end=0.82)])
SPOKEN = (ONE, TWO, END)
TOLD: Rows = row(Hi=0.6)  # along the prompt it expects "Hi" everywhere


def talk(name: str, *words: str, group: str = "CORE") -> Conversation:
    return Conversation(id=name, group=group, messages=tuple(Message(role="user", content=word) for word in words))


HI, BYE, ODD = talk("hi", "Hi"), talk("bye", "Bye"), talk("odd", "Hi", "Bye", group="EXT")


def prompt_of(conversation: Conversation) -> str:
    return "<bos>" + "".join(f"<{turn.role}>{turn.content}" for turn in conversation.messages) + "<assistant>"


def encoded(text: str) -> tuple[int, ...]:
    known = "|".join(map(re.escape, PIECES))
    return tuple(PIECES.index(found) if found in PIECES else 9 for found in re.findall(rf"(?s){known}|.", text))


class Teacher(Reference):
    """The reference; `asked` says what it was asked, in order."""

    bos_text = "<bos>"
    template = "{{ messages }}"
    special_tokens = ("<bos>", "<end>")
    offload = None

    def __init__(self, refuses: frozenset[str] = frozenset()) -> None:
        self.refuses = refuses
        self.asked: list[str] = []

    def version(self) -> str:
        return "1"

    def render(self, conversation: Conversation) -> str | NotSupported:
        self.asked.append(f"render {conversation.id}")
        return REFUSED if conversation.id in self.refuses else prompt_of(conversation)

    def tokens(self, conversation: Conversation) -> tuple[int, ...] | NotSupported:
        self.asked.append(f"tokens {conversation.id}")
        return REFUSED if conversation.id in self.refuses else encoded(prompt_of(conversation))

    def answer(self, conversation: Conversation, *, max_tokens: int) -> Answer | NotSupported:
        self.asked.append(f"answer {conversation.id} {max_tokens}")
        return REFUSED if conversation.id in self.refuses else answer_to(conversation)

    def encode(self, text: str) -> tuple[int, ...]:
        return encoded(text)

    def piece(self, token_id: int) -> str:
        return PIECES[token_id]

    def close(self) -> None:
        self.asked.append("close")


@dataclass(kw_only=True)
class Pupil(Embedded):
    """A file on llama.cpp; the dictionaries go from a conversation's id to what it says instead.

    Attributes:
        told: Its distribution at every position of a prompt.
        unknown: A character that its tokenizer reads as "?" "?".
        broken: Raised by the tokenizer.
        fed: The ids and the start of every evaluation.
    """

    prompts: dict[str, str | NotSupported] = field(default_factory=dict)
    ids: dict[str, tuple[int, ...] | NotSupported] = field(default_factory=dict)
    texts: dict[str, str | NotSupported] = field(default_factory=dict)
    rows: Rows = field(default_factory=lambda: ROWS)
    told: Rows = field(default_factory=lambda: TOLD)
    unknown: str = ""
    broken: Exception | None = None
    fed: list[tuple[tuple[int, ...], int]] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(Path("double.gguf"))

    def version(self) -> str:
        return "1"

    def render(self, conversation: Conversation) -> str | NotSupported:
        return self.prompts.get(conversation.id, prompt_of(conversation))

    def tokens(self, conversation: Conversation) -> tuple[int, ...] | NotSupported:
        return self.ids.get(conversation.id, encoded(prompt_of(conversation)))

    def tokenize(self, text: str, *, add_special: bool) -> tuple[int, ...]:
        if self.broken is not None:
            raise self.broken
        known = text.replace(self.unknown, "??") if self.unknown else text
        return (BOS,) * add_special + encoded(known)

    def generate(self, conversation: Conversation, *, max_tokens: int) -> str | NotSupported:
        self.answered.append(f"{conversation.id} {max_tokens}")
        return self.texts.get(conversation.id, "onetwo")

    def logprob_blocks(self, ids: Sequence[int], *, start: int = 0) -> Iterator[Rows]:
        self.fed.append((tuple(ids), start))
        known = max(at for at, token in enumerate(ids) if PIECES[token] == "<assistant>")  # the first answer position
        rows = np.stack([self.told] * known + list(self.rows)) if known else self.rows
        yield from (rows[at : at + 2] for at in range(start, len(ids), 2))

    @property
    def pieces(self) -> tuple[bytes, ...]:  # type: ignore[override]
        if self.broken is not None:
            raise self.broken
        return tuple(piece.encode() for piece in PIECES)


@dataclass(kw_only=True)
class Served(OllamaEngine):
    """A model in Ollama, which takes BOS off the prompt's text and feeds it as a token."""

    prompts: dict[str, str | NotSupported] = field(default_factory=dict)
    counts: dict[str, int | NotSupported] = field(default_factory=dict)
    texts: dict[str, str | NotSupported] = field(default_factory=dict)
    first: tuple[TokenLogprob, ...] | NotSupported = (TokenLogprob(text="one", logprob=float(ROWS[0, ONE])),)
    asked_top: list[int] = field(default_factory=list)

    def render(self, conversation: Conversation) -> str | NotSupported:
        return self.prompts.get(conversation.id, prompt_of(conversation).removeprefix("<bos>"))

    def prompt_token_count(self, conversation: Conversation) -> int | NotSupported:
        return self.counts.get(conversation.id, len(encoded(prompt_of(conversation))))

    def first_token(self, conversation: Conversation, top: int = 20) -> tuple[TokenLogprob, ...] | NotSupported:
        self.asked_top.append(top)
        return self.first

    def generate(self, conversation: Conversation, *, max_tokens: int) -> str | NotSupported:
        return self.texts.get(conversation.id, "onetwo")


def answer_to(conversation: Conversation) -> Answer:
    prompt = encoded(prompt_of(conversation))
    told = np.stack([TOLD] * (len(prompt) - 1))
    return Answer(prompt=prompt, ids=SPOKEN, text="onetwo", logprobs=ROWS, prompt_logprobs=told)


def truth_of(*conversations: Conversation, refuses: frozenset[str] = frozenset()) -> Truth:
    """Give the reference's side, without asking for it through the code under test."""
    told = [(probe, None if probe.id in refuses else prompt_of(probe)) for probe in conversations]
    return Truth(
        reference=Teacher(refuses),
        conversations=conversations,
        prompts=tuple(REFUSED if text is None else text for _, text in told),
        ids=tuple(REFUSED if text is None else encoded(text) for _, text in told),
        answered=tuple(
            Answered(conversation=probe, answer=answer_to(probe))
            for probe, text in told
            if text is not None and probe.group == "CORE"
        ),
    )
