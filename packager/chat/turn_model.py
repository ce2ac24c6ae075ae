"""A chat template as a small explicit model: fixed texts between the contents of messages.

Learned by `packager.chat.solve` from prompts, never from the template's text; what other engines' forms are written from.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from packager.artifacts import Message

START, END = "start", "end"  # what stands before the first message and after the last one
SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
LATE_SYSTEM = "late system"  # a system message whose content is written in the last user's turn
THINK = "</think>"


class Trim(StrEnum):
    """What is cut off an end of a content."""

    NOTHING = "nothing"
    NEWLINES = "newlines"
    BLANKS = "blanks"

    def left(self, content: str) -> str:
        """Give a content without what is cut off its start."""
        return content if self is Trim.NOTHING else content.lstrip(self._characters)

    def right(self, content: str) -> str:
        """Give a content without what is cut off its end."""
        return content if self is Trim.NOTHING else content.rstrip(self._characters)

    @property
    def _characters(self) -> str | None:
        return "\n" if self is Trim.NEWLINES else None  # None: every white space


@dataclass(frozen=True, kw_only=True)
class Edge:
    """What is written between two contents.

    Attributes:
        previous: Role of the message before, or START.
        next: Role of the message behind, or END.
        text: The text itself.
        trims_previous: What is cut off the end of the content before.
        trims_next: What is cut off the start of the content behind.
    """

    previous: str
    next: str
    text: str
    trims_previous: Trim = Trim.NOTHING
    trims_next: Trim = Trim.NOTHING


@dataclass(frozen=True, kw_only=True)
class TurnModel:
    """A template whose prompts are texts and contents in turn, for roles that alternate.

    Attributes:
        bos: The BOS text that every prompt begins with, empty when there is none; not part of an edge.
        edges: One for each pair of roles that can follow each other.
        drops_system: A system message leaves no trace in the prompt.
        moves_system: A system message's content is written in front of the last user's: edges call it LATE_SYSTEM.
        empty_system: What is written from the start to the first user's content when there is a system message without
            content; None when an empty content is like any other.
        limits: What contents must not have for the model to hold: `think` for THINK in an answer, `empty` for a content
            that is nothing or blanks, `system blanks` for a system message of blanks.
    """

    bos: str
    edges: tuple[Edge, ...]
    drops_system: bool = False
    moves_system: bool = False
    empty_system: str | None = None
    limits: tuple[str, ...] = ()

    @property
    def writes_system(self) -> bool:
        """Whether a system message is written where it stands."""
        return self.edge(START, SYSTEM) is not None

    @property
    def takes_system(self) -> bool:
        """Whether a conversation may begin with a system message."""
        return self.writes_system or self.drops_system or self.moves_system

    def edge(self, previous: str, following: str) -> Edge | None:
        """Give the edge between two roles, None when there is none."""
        return next((edge for edge in self.edges if (edge.previous, edge.next) == (previous, following)), None)

    def cuts(self, previous: str, role: str, following: tuple[str, ...]) -> tuple[Trim, Trim]:
        """Give what is cut off the start and off the end of a content that stands behind one role and before others.

        A content loses the same at its end whatever follows it: a template for which that is not so has no model.
        """
        before = self.edge(previous, role)
        behind = [edge for each in following if (edge := self.edge(role, each)) is not None]
        left = Trim.NOTHING if before is None else before.trims_next
        return left, behind[0].trims_previous if behind else Trim.NOTHING

    def holds_for(self, messages: tuple[Message, ...]) -> bool:
        """Whether the model says anything about this conversation: its roles alternate, and no limit is met."""
        first = messages[0]
        if not alternates(messages):
            return False
        if first.role == SYSTEM and not self.takes_system:
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
        turns = late_system(messages) if self.moves_system else messages
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
        content = self._required(previous, message).trims_next.left(message.content)
        return self._required(message, rest[0] if rest else None).trims_previous.right(content)

    def _required(self, previous: Message | None, following: Message | None) -> Edge:
        key = (previous.role if previous else START, following.role if following else END)
        found = self.edge(*key)
        if found is None:
            raise KeyError(key)
        return found


def late_system(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Give a conversation in the order in which a template that moves the system message writes its contents."""
    if messages[0].role != SYSTEM:
        return messages
    return (*messages[1:-1], replace(messages[0], role=LATE_SYSTEM), messages[-1])


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
