"""The rows of a data set with the answer that each expects, in the forms that `packager.formats.conversations` reads.

Worked example: the line
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
is a row whose prompt is the user's turn and whose label is `Hello`. The last turn of the assistant is the label, and what
precedes it the prompt; Alpaca's label is its `output`.

Unlike `read_conversations`, which leaves lines out, every line counts here: a mean over other rows is another number.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from packager.artifacts import Conversation, Message
from packager.codec import Json
from packager.errors import InputInvalid
from packager.formats.conversation_tools import Unusable, read_tools
from packager.formats.conversations import GROUP, LINE_HINT, asking, json_lines, read_text, read_turns


@dataclass(frozen=True, kw_only=True)
class LabelledRow:
    """One row.

    Attributes:
        number: Its line in the file, from 1.
        sha256: Of the line's bytes, without the blanks around them.
        conversation: The prompt.
        label: The text of the answer that is expected, as it stands in the file.
    """

    number: int
    sha256: str
    conversation: Conversation
    label: str

    @property
    def question(self) -> str:
        """The last text of the prompt."""
        return self.conversation.messages[-1].content


def read_labelled_rows(path: Path, *, limit: int | None = None) -> tuple[LabelledRow, ...]:
    """Read the first rows of a file, all of them without a limit.

    Raises:
        InputInvalid: The file cannot be read or is empty, or a row is damaged or has no label; the line is named.
    """
    rows: list[LabelledRow] = []
    for line in json_lines(path, hint="Give a .jsonl file, one row a line."):
        try:
            tools = read_tools(line.entry.get("tools"))
            messages, label = _prompt_and_label(line.entry)
        except Unusable as error:
            raise InputInvalid(f"{path}: line {line.number}: {error}", hint=LINE_HINT) from None
        conversation = Conversation(id=f"line-{line.number}", group=GROUP, messages=messages, tools=tools)
        sha256 = hashlib.sha256(line.data).hexdigest()
        rows.append(LabelledRow(number=line.number, sha256=sha256, conversation=conversation, label=label))
        if len(rows) == limit:
            break
    if not rows:
        raise InputInvalid(f"{path}: there are no rows in it", hint=LINE_HINT)
    return tuple(rows)


def _prompt_and_label(entry: dict[str, Json]) -> tuple[tuple[Message, ...], str]:
    turns = read_turns(entry)
    if "messages" in entry or "conversations" in entry:
        answers = [index for index, turn in enumerate(turns) if turn.role == "assistant"]
        if not answers:
            raise Unusable("no turn of the assistant, so no label")
        label = turns[answers[-1]].content
        turns = turns[: answers[-1]]
    else:
        label = read_text(entry.get("output"), "output")
    if not label.strip():
        raise Unusable("its last answer has no text, so no label")
    return asking(turns, end="before its last answer"), label
