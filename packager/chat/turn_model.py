"""A chat template as a small explicit model: fixed texts between the contents of messages.

Learned by `packager.chat.solve` from prompts, never from the template's text; what other engines' forms are written from.
"""

from __future__ import annotations

from dataclasses import dataclass

from packager.artifacts import Message

START, END = "start", "end"  # what stands before the first message and after the last one
SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
THINK = "</think>"


@dataclass(frozen=True, kw_only=True)
class Edge:
    """What is written between two contents.

    Attributes:
        previous: Role of the message before, or START.
        next: Role of the message behind, or END.
        text: The text itself.
        trims_previous: Blanks at the end of the content before are dropped.
        trims_next: Blanks at the start of the content behind are dropped.
    """

    previous: str
    next: str
    text: str
    trims_previous: bool = False
    trims_next: bool = False


@dataclass(frozen=True, kw_only=True)
class TurnModel:
    """A template whose prompts are texts and contents in turn, for roles that alternate.

    Attributes:
        bos: The BOS text that every prompt begins with, empty when there is none; not part of an edge.
        edges: One for each pair of roles that can follow each other. Without one from START to system, the template takes no
            system message.
        drops_system: A system message leaves no trace in the prompt.
        empty_system: What is written from the start to the first user's content when there is a system message without
            content; None when an empty content is like any other.
        limits: What contents must not have for the model to hold: `think` for THINK in an answer, `empty` for a content
            that is nothing or blanks, `system blanks` for a system message of blanks.
    """

    bos: str
    edges: tuple[Edge, ...]
    drops_system: bool = False
    empty_system: str | None = None
    limits: tuple[str, ...] = ()

    def edge(self, previous: str, following: str) -> Edge | None:
        """Give the edge between two roles, None when there is none."""
        return next((edge for edge in self.edges if (edge.previous, edge.next) == (previous, following)), None)

    def holds_for(self, messages: tuple[Message, ...]) -> bool:
        """Whether the model says anything about this conversation: its roles alternate, and no limit is met."""
        first = messages[0]
        if not alternates(messages):
            return False
        if first.role == SYSTEM and self.edge(START, SYSTEM) is None and not self.drops_system:
            return False
        return not (
            ("think" in self.limits and any(m.role == ASSISTANT and THINK in m.content for m in messages))
            or ("empty" in self.limits and any(m.role != SYSTEM and not m.content.strip() for m in messages))
            or ("system blanks" in self.limits and first.role == SYSTEM and first.content and not first.content.strip())
        )

    def assemble(self, messages: tuple[Message, ...]) -> str:
        """Give the prompt for a conversation that the model holds for.

        Raises:
            KeyError: Two roles follow each other that the model has no edge for.
        """
        text = self.bos
        turns = messages
        previous: Message | None = None
        if messages[0].role == SYSTEM and (
            self.drops_system or (not messages[0].content and self.empty_system is not None)
        ):
            turns = messages[1:]
            if not self.drops_system:
                text += str(self.empty_system) + self._content(None, turns[0], turns[1:])
                previous, turns = turns[0], turns[1:]
        for place, message in enumerate(turns):
            text += self._required(previous, message).text + self._content(previous, message, turns[place + 1 :])
            previous = message
        return text + self._required(previous, None).text

    def _content(self, previous: Message | None, message: Message, rest: tuple[Message, ...]) -> str:
        content = message.content
        if self._required(previous, message).trims_next:
            content = content.lstrip()
        return content.rstrip() if self._required(message, rest[0] if rest else None).trims_previous else content

    def _required(self, previous: Message | None, following: Message | None) -> Edge:
        key = (previous.role if previous else START, following.role if following else END)
        found = self.edge(*key)
        if found is None:
            raise KeyError(key)
        return found


def alternates(messages: tuple[Message, ...]) -> bool:
    """Whether the roles are what every chat looks like: perhaps a system message, then user and assistant in turn."""
    roles = [message.role for message in messages]
    turns = roles[1:] if roles[:1] == [SYSTEM] else roles
    return turns == [(USER, ASSISTANT)[place % 2] for place in range(len(turns))] and turns[-1:] == [USER]


@dataclass(frozen=True, kw_only=True)
class Unsolved:
    """Why there is no model: a reason code of docs/templates.md, one line, and the conversation that showed it."""

    code: str
    reason: str
    conversation: str
