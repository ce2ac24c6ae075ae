"""Conversations in the form of Ollama's own chat interface, and what Ollama makes of declared functions.

Source: ollama 0.34.0, api/types.go (`Message`, `ToolCall`, `Tool`, `ToolFunction`, `ToolFunctionParameters`, `ToolProperty`);
llama.cpp common/chat.cpp (`common_chat_tools_parse_oaicompat`), as vendored by llama-cpp-python 0.3.36.
"""

from __future__ import annotations

from packager.artifacts import Message
from packager.codec import Json, JsonObject

# The keys that Ollama knows, in the order in which it writes them; every other key is dropped, and so is what is empty.
_PARAMETERS = ("type", "$defs", "items", "required", "properties")
_PROPERTY = ("anyOf", "type", "items", "description", "enum", "properties", "required")


def chat_messages(messages: tuple[Message, ...]) -> list[dict[str, Json]]:
    """Give messages as `/api/chat` takes them; what is absent has no key."""
    return [_message(message) for message in messages]


def rewritten_tool(tool: JsonObject) -> JsonObject:
    """Give a declared function as Ollama hands it on: read into its own types, which have an order, and written again.

    Worked example: `{"type": "object", "properties": {}, "required": ["a"], "additionalProperties": false}` as parameters
    becomes `{"type": "object", "required": ["a"], "properties": {}}`.
    """
    function = _object(tool.data().get("function"))
    parameters = _parameters(_object(function.get("parameters")))
    # llama-server, behind it, writes a description whether there is one or not.
    written = {name: function.get(name) or "" for name in ("name", "description")} | {"parameters": parameters}
    return JsonObject.of({"type": "function", "function": written})


def _message(message: Message) -> dict[str, Json]:
    found: dict[str, Json] = {"role": message.role, "content": message.content}
    if message.thinking:
        found["thinking"] = message.thinking
    if message.tool_calls:
        found["tool_calls"] = [
            {
                **({"id": call.id} if call.id else {}),
                "function": {"name": call.name, "arguments": call.arguments.data()},
            }
            for call in message.tool_calls
        ]
    if message.tool_name:
        found["tool_name"] = message.tool_name
    if message.tool_call_id:
        found["tool_call_id"] = message.tool_call_id
    return found


def _parameters(schema: dict[str, Json]) -> dict[str, Json]:
    found = {key: _known(key, schema[key]) for key in _PARAMETERS if key in schema and not _is_empty(key, schema[key])}
    # These two are written whether they were given or not.
    return {"type": "", **found, "properties": found.get("properties")}


def _property(schema: Json) -> dict[str, Json]:
    given = _object(schema)
    return {key: _known(key, given[key]) for key in _PROPERTY if key in given and not _is_empty(key, given[key])}


def _known(key: str, value: Json) -> Json:
    if key == "properties":
        return {name: _property(each) for name, each in _object(value).items()}
    if key == "anyOf":
        return [_property(each) for each in value] if isinstance(value, list) else value
    if key == "type" and isinstance(value, list) and len(value) == 1:
        return value[0]
    return _as_any(value) if key in ("items", "$defs", "enum") else value


def _is_empty(key: str, value: Json) -> bool:
    """Whether Go's omitempty leaves a value out: an object is a pointer or an interface, which is empty only when absent."""
    return value is None or (value in ("", []) and key not in ("items", "$defs"))


def _as_any(value: Json) -> Json:
    """Give a value that was read into no type: keys are sorted, whole numbers have no point."""
    if isinstance(value, dict):
        return {key: _as_any(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_as_any(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _object(value: Json) -> dict[str, Json]:
    return value if isinstance(value, dict) else {}
