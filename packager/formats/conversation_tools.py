"""Declared functions, calls and their answers in a user's conversations, as OpenAI and LLaMA-Factory write them.

Worked example, ShareGPT with functions:
    {"conversations": [{"from": "human", "value": "Trains to Bern?"},
                       {"from": "function_call", "value": "{\"name\": \"trains\", \"arguments\": {\"to\": \"Bern\"}}"},
                       {"from": "observation", "value": "[\"9:31\"]"}],
     "tools": "[{\"name\": \"trains\", \"description\": \"...\", \"parameters\": {\"type\": \"object\", ...}}]"}

Source: LLaMA-Factory 0.9.5, src/llamafactory/data/formatter.py (`FunctionFormatter`), tool_utils.py.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace

from packager.artifacts import Message, ToolCall
from packager.codec import Json, JsonObject

_MOST_LEVELS = 32  # of lists and objects inside each other; a schema has a handful
_THOUGHT = re.compile(r"\s*(<think>.*?</think>)?(.*)", re.DOTALL)


class Unusable(Exception):
    """Why a line is no conversation that can be put to an engine."""


def read_tools(value: Json) -> tuple[JsonObject, ...]:
    """Give declared functions in OpenAI's form, from a list of them, or of bare functions, or the JSON text of one.

    Raises:
        Unusable: It is no such list, or a function has no name.
    """
    if isinstance(value, str):
        value = _parsed(value, "tools") if value.strip() else []
    if not isinstance(value or [], list):
        raise Unusable("tools is no list")
    return tuple(_tool(each) for each in value or [])


def read_calls(value: Json) -> tuple[ToolCall, ...]:
    """Give the calls of a message's `tool_calls`.

    Raises:
        Unusable: It is no list of calls with a name and arguments.
    """
    if not isinstance(value, list):
        raise Unusable("tool_calls is no list")
    return tuple(_call(each, each.get("function") if isinstance(each, dict) else None) for each in value)


def read_function_call(text: str) -> tuple[str, tuple[ToolCall, ...]]:
    """Give what stands in front of a ShareGPT turn's calls, its thinking, and the calls: a JSON object or a list of them.

    Raises:
        Unusable: It is no JSON, or a call has no name or no arguments.
    """
    found = _THOUGHT.fullmatch(text)
    thought, rest = (found[1] or "", found[2]) if found else ("", text)
    value = _parsed(rest, "function_call")
    calls = tuple(_call({}, each) for each in (value if isinstance(value, list) else [value]))
    if not calls:
        raise Unusable("function_call calls nothing")
    return thought, calls


def linked(turns: list[Message]) -> list[Message]:
    """Give every call an id, and every answer the id and the name of the call that it answers, where the data has none.

    Answers without an id belong to the calls in their order. An id has nine letters and digits, which Mistral's templates ask
    for.

    Raises:
        Unusable: An answer that nothing called for.
    """
    done: list[Message] = []
    waiting: list[ToolCall] = []
    count = 0
    for turn in turns:
        if turn.tool_calls:
            numbered = [
                replace(call, id=call.id or f"call{count + i:05d}") for i, call in enumerate(turn.tool_calls, 1)
            ]
            count += len(numbered)
            waiting = numbered
            done.append(replace(turn, tool_calls=tuple(numbered)))
        elif turn.role == "tool":
            call = next((c for c in waiting if not turn.tool_call_id or c.id == turn.tool_call_id), None)
            if call is None:
                raise Unusable(f"nothing calls for the answer {turn.content[:40]!r} of a tool")
            waiting = [c for c in waiting if c is not call]
            done.append(replace(turn, tool_call_id=call.id, tool_name=turn.tool_name or call.name))
        else:
            done.append(turn)
    return done


def is_text(value: str) -> bool:
    """Whether a string is valid Unicode: JSON can carry half a character."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _tool(value: Json) -> JsonObject:
    if not isinstance(value, dict):
        raise Unusable("tools has an entry that is no object")
    is_wrapped = isinstance(value.get("function"), dict)
    if not isinstance((value["function"] if is_wrapped else value).get("name"), str):
        raise Unusable("tools has a function without a name")
    return _object(value if is_wrapped else {"type": "function", "function": value}, "tools")


def _call(outer: Json, function: Json) -> ToolCall:
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(outer, dict) or not isinstance(function, dict) or not isinstance(name, str) or not is_text(name):
        raise Unusable("a call of a tool has no name")
    arguments, given = function.get("arguments", {}), outer.get("id")
    if isinstance(arguments, str):
        arguments = _parsed(arguments, "arguments") if arguments.strip() else {}
    if not isinstance(arguments, dict):
        raise Unusable(f"the arguments of {name[:40]!r} are no object")
    call_id = given if isinstance(given, str) and is_text(given) else ""
    return ToolCall(name=name, arguments=_object(arguments, "arguments"), id=call_id)


def _object(value: dict[str, Json], key: str) -> JsonObject:
    if _deeper(value, _MOST_LEVELS):
        raise Unusable(f"{key} is nested more than {_MOST_LEVELS} times")
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
    except ValueError as error:
        raise Unusable(f"{key} has a number that is none in JSON") from error
    if not is_text(text):
        raise Unusable(f"{key} has half a character in it")
    return JsonObject(text)


def _deeper(value: Json, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return bool(inner) and (levels == 0 or any(_deeper(each, levels - 1) for each in inner))


def _parsed(text: str, key: str) -> Json:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unusable(f"{key} is no JSON") from error
