"""Conversations of the user's own, in the forms that trainers read: OpenAI messages, ShareGPT, Alpaca.

Worked example, one line each of a `.jsonl` file:
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
    {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}], "system": "Be brief."}
    {"instruction": "Translate", "input": "Bonjour", "output": "Hello", "history": [["a question", "its answer"]]}

A last turn of the assistant is the answer that was expected; it is left out, so that each conversation asks for one.
Declared functions, calls, answers of tools and reasoning of its own are read too (`packager.formats.conversation_tools`).

Source: LLaMA-Factory 0.9.5, data/README.md and src/llamafactory/data/converter.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packager.artifacts import Conversation, Message
from packager.codec import Json
from packager.errors import InputInvalid
from packager.formats.conversation_tools import Unusable, is_text, linked, read_calls, read_function_call, read_tools

GROUP = "USER"
LINE_LIMIT_BYTES = 4 << 20
MOST_CONVERSATIONS = 200  # a template has shown what it does by then
_ROLES = {
    "system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "model": "assistant",
    "tool": "tool", "observation": "tool", "function_call": "assistant",
}  # fmt: skip
_CALLS = "function_call"  # ShareGPT's turn that is nothing but calls
_REASONING = ("reasoning_content", "thinking", "reasoning")
_FORMS = "messages (OpenAI), conversations (ShareGPT) or instruction (Alpaca)"
LINE_HINT = f"Each line is an object with {_FORMS}; an array becomes lines with: jq -c '.[]' FILE"
_MOST_SKIPPED = 1000


@dataclass(frozen=True, kw_only=True)
class JsonLine:
    """One line of a `.jsonl` file: its number from 1, its bytes without the blanks around them, and the object it holds."""

    number: int
    data: bytes
    entry: dict[str, Json]


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A line that was left out, and why."""

    line: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class ConversationFile:
    """What a file holds: conversations of the group USER with ids `line-N`, and the lines that cannot be used."""

    conversations: tuple[Conversation, ...]
    skipped: tuple[Skipped, ...]


def read_conversations(path: Path, *, limit: int = MOST_CONVERSATIONS) -> ConversationFile:
    """Read the first conversations of a file, one JSON object a line.

    Args:
        path: The file; UTF-8, blank lines are ignored.
        limit: How many to read at most.

    Raises:
        InputInvalid: It cannot be read, a line is no JSON object or too long, or no line can be used.
    """
    found: list[Conversation] = []
    skipped: list[Skipped] = []
    for line in json_lines(path, hint="Check --conversations."):
        try:
            tools, messages = read_tools(line.entry.get("tools")), _messages(line.entry)
        except Unusable as error:
            skipped.append(Skipped(line=line.number, reason=str(error)))
        else:
            found.append(Conversation(id=f"line-{line.number}", group=GROUP, messages=messages, tools=tools))
        if len(found) == limit or len(skipped) == _MOST_SKIPPED:
            break
    if not found:
        reason = f"line {skipped[0].line}: {skipped[0].reason}" if skipped else "it is empty"
        raise InputInvalid(f"{path}: no conversation can be used ({reason})", hint=LINE_HINT)
    return ConversationFile(conversations=tuple(found), skipped=tuple(skipped))


def json_lines(path: Path, *, hint: str) -> Iterator[JsonLine]:
    """Give the objects of a file, one a line; blank lines are passed over and counted.

    Args:
        path: The file; UTF-8.
        hint: What to do where it cannot be opened.

    Raises:
        InputInvalid: It cannot be read, or a line is no JSON object or too long.
    """
    if path.exists() and not path.is_file():
        raise InputInvalid(f"{path}: not a file", hint=LINE_HINT)
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(LINE_LIMIT_BYTES + 1):
                number += 1
                if len(line) > LINE_LIMIT_BYTES:
                    raise InputInvalid(f"{path}: line {number} is longer than {LINE_LIMIT_BYTES} bytes", hint=LINE_HINT)
                line = line.removeprefix(b"\xef\xbb\xbf").strip()
                if line:
                    yield JsonLine(number=number, data=line, entry=_object(path, number, line))
    except OSError as error:
        raise InputInvalid(f"{path}: {error.strerror}", hint=hint) from error


def read_turns(entry: dict[str, Json]) -> list[Message]:
    """Give the turns of an object of any form as they stand there, the last answers included; Alpaca's has none.

    Raises:
        Unusable: It is of no form, or a turn is damaged.
    """
    if "messages" in entry:
        turns = _turns(entry, "messages", "role", "content")
    elif "conversations" in entry:
        turns = _turns(entry, "conversations", "from", "value")
    elif "instruction" in entry:
        turns = _alpaca(entry)
    else:
        raise Unusable(f"it has neither {_FORMS}")
    system = read_text(entry.get("system") or "", "system")
    if system and turns[:1] and turns[0].role != "system":
        turns.insert(0, Message(role="system", content=system))
    return turns


def asking(turns: list[Message], *, end: str = "at its end") -> tuple[Message, ...]:
    """Give turns that ask for an answer, calls of tools linked with what answers them.

    Args:
        turns: The turns.
        end: Where the last of them stands, for the error.

    Raises:
        Unusable: The last turn is neither a user's nor a tool's.
    """
    if not turns or turns[-1].role not in ("user", "tool"):
        raise Unusable(f"no turn of a user or a tool {end}")
    return tuple(linked(turns))


def read_text(value: object, key: str) -> str:
    """Give a text, or the texts of a list of OpenAI's parts; raises Unusable, naming the key, for anything else."""
    if isinstance(value, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in value):
        texts = [part.get("text") for part in value]
        value = "".join(text for text in texts if isinstance(text, str)) if all(texts) else value
    if isinstance(value, str) and is_text(value):
        return value
    raise Unusable(f"{key} is {_shown(value)}, which is no text")


def _object(path: Path, number: int, line: bytes) -> dict[str, Json]:
    try:
        entry = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InputInvalid(f"{path}: line {number} is not UTF-8 (byte {error.start})") from error
    except json.JSONDecodeError as error:
        reason = f"{error.msg}, column {error.colno}"
        raise InputInvalid(f"{path}: line {number} is not JSON ({reason})", hint=LINE_HINT) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise InputInvalid(f"{path}: line {number} is not JSON ({type(error).__name__})", hint=LINE_HINT) from error
    if not isinstance(entry, dict):
        raise InputInvalid(f"{path}: line {number} is no JSON object", hint=LINE_HINT)
    return entry


def _messages(entry: dict[str, Json]) -> tuple[Message, ...]:
    turns = read_turns(entry)
    while turns and turns[-1].role == "assistant":
        turns.pop()
    return asking(turns)


def _turns(entry: dict[str, Json], key: str, role_key: str, text_key: str) -> list[Message]:
    items = entry[key]
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise Unusable(f"{key} is no list of objects")
    turns = []
    for item in items:
        named = item.get(role_key)
        role = _ROLES.get(named) if isinstance(named, str) else None
        if role is None:
            raise Unusable(f"{role_key} is {_shown(named)}, which is none of {', '.join(_ROLES)}")
        turns.append(_turn(item, role, named == _CALLS, text_key))
    return turns


def _turn(item: dict[str, Json], role: str, is_call: bool, text_key: str) -> Message:
    if is_call:
        content, calls = read_function_call(read_text(item.get(text_key), text_key))
        return Message(role=role, content=content, tool_calls=calls)
    calls = read_calls(item["tool_calls"]) if item.get("tool_calls") else ()
    if calls and role != "assistant":
        raise Unusable(f"a turn of the {role} calls a tool")
    is_silent = bool(calls) and item.get(text_key) is None
    return Message(
        role=role,
        content="" if is_silent else read_text(item.get(text_key), text_key),
        thinking=_reasoning(item) if role == "assistant" else "",
        tool_calls=calls,
        tool_name=_optional(item, "name") if role == "tool" else "",
        tool_call_id=_optional(item, "tool_call_id") if role == "tool" else "",
    )


def _reasoning(item: dict[str, Json]) -> str:
    return next((read_text(item[key], key) for key in _REASONING if item.get(key)), "")


def _optional(item: dict[str, Json], key: str) -> str:
    return read_text(item.get(key) or "", key)


def _alpaca(entry: dict[str, Json]) -> list[Message]:
    history = entry.get("history") or []
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise Unusable("history is no list of pairs")
    turns = [
        Message(role=role, content=read_text(text, "history"))
        for pair in history
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    instruction, extra = read_text(entry["instruction"], "instruction"), read_text(entry.get("input", ""), "input")
    return [*turns, Message(role="user", content="\n".join(part for part in (instruction, extra) if part))]


def _shown(value: object) -> str:
    """Give a value for a message; of one with parts, only what it is."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return f"a list with a part of type {_shown(value[0].get('type'))}"
    if isinstance(value, list | dict):
        return f"a {type(value).__name__}"
    return repr(value)[:40]
