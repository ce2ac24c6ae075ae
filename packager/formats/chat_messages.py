"""Conversations as templates and chat interfaces take them: OpenAI's objects.

Worked example:
    >>> template_messages((Message(role="assistant", content="4", thinking="2 + 2"),))
    [{'role': 'assistant', 'content': '4', 'reasoning_content': '2 + 2'}]

Source: transformers 5.23, docs/source/en/chat_extras.md; OpenAI's chat completions.
"""

from __future__ import annotations

from collections.abc import Callable

from packager.artifacts import Conversation, Message, ToolCall
from packager.codec import Json, JsonObject


def template_messages(messages: tuple[Message, ...]) -> list[dict[str, Json]]:
    """Give messages as a chat template takes them: the arguments of a call are an object, what is absent has no key."""
    return [_message(message, arguments=JsonObject.data) for message in messages]


def request_messages(messages: tuple[Message, ...]) -> list[dict[str, Json]]:
    """Give messages as OpenAI's interface takes them: the arguments of a call are JSON text."""
    return [_message(message, arguments=lambda given: given.text) for message in messages]


def declared_tools(conversation: Conversation) -> list[dict[str, Json]] | None:
    """Give the declared functions, None where there are none: an empty list is another thing to a template."""
    return [tool.data() for tool in conversation.tools] or None


def _message(message: Message, *, arguments: Callable[[JsonObject], Json]) -> dict[str, Json]:
    found: dict[str, Json] = {"role": message.role, "content": message.content}
    if message.thinking:
        found["reasoning_content"] = message.thinking
    if message.tool_calls:
        found["tool_calls"] = [_call(call, arguments(call.arguments)) for call in message.tool_calls]
    if message.tool_name:
        found["name"] = message.tool_name
    if message.tool_call_id:
        found["tool_call_id"] = message.tool_call_id
    return found


def _call(call: ToolCall, arguments: Json) -> dict[str, Json]:
    function = {"name": call.name, "arguments": arguments}
    return {"type": "function", **({"id": call.id} if call.id else {}), "function": function}
