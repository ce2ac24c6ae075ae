"""Conversations in the form of Ollama's own chat interface, and what Ollama makes of declared functions.

Source: ollama 0.34.0, api/types.go (`Message`, `ToolCall`, `Tool`, `ToolFunction`, `ToolFunctionParameters`, `ToolProperty`).
"""

from __future__ import annotations

from packager.artifacts import Message
from packager.codec import Json, JsonObject

# The keys that Ollama knows, in the order in which it writes them; every other key is dropped.
_TOOL = ("type", "items", "function")
_FUNCTION = ("name", "description", "parameters")
_PARAMETERS = ("type", "$defs", "items", "required", "properties")
_PROPERTY = ("anyOf", "type", "items", "description", "enum", "properties", "required")


def chat_messages(messages: tuple[Message, ...]) -> list[dict[str, Json]]:
    """Give messages as `/api/chat` takes them; what is absent has no key."""
    return [_message(message) for message in messages]


def rewritten_tool(tool: JsonObject) -> JsonObject:
    """Give a declared function as Ollama hands it on: read into its own types, which have an order, and written again.

    Worked example: `{"type": "object", "properties": {}, "required": [], "additionalProperties": false}` as parameters becomes
    `{"type": "object", "required": [], "properties": {}}`.
    """
    found = _picked(tool.data(), _TOOL)
    function = _picked(found.get("function"), _FUNCTION)
    parameters = _picked(function.get("parameters"), _PARAMETERS)
    if "properties" in parameters:
        parameters["properties"] = _properties(parameters["properties"])
    if "parameters" in function:
        function["parameters"] = parameters
    if "function" in found:
        found["function"] = function
    return JsonObject.of(found)


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


def _properties(properties: Json) -> Json:
    if not isinstance(properties, dict):
        return properties
    return {name: _property(each) for name, each in properties.items()}


def _property(schema: Json) -> dict[str, Json]:
    found = _picked(schema, _PROPERTY)
    if "anyOf" in found:
        found["anyOf"] = [_property(each) for each in found["anyOf"]]
    if "properties" in found:
        found["properties"] = _properties(found["properties"])
    return found


def _picked(data: Json, keys: tuple[str, ...]) -> dict[str, Json]:
    return {key: data[key] for key in keys if key in data} if isinstance(data, dict) else {}
