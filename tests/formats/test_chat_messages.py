from __future__ import annotations

import pytest

from packager.artifacts import Conversation, Message, ToolCall
from packager.codec import JsonObject
from packager.formats.chat_messages import declared_tools, request_messages, template_messages

CALL = Message(
    role="assistant",
    content="",
    thinking="Hm.",
    tool_calls=(ToolCall(name="f", arguments=JsonObject('{"b": 1}'), id="7"),),
)
ANSWER = Message(role="tool", content="r", tool_name="f", tool_call_id="7")


@pytest.mark.parametrize(
    ("form", "arguments"), [(template_messages, {"b": 1}), (request_messages, '{"b": 1}')], ids=["template", "request"]
)
def test_a_call_and_its_answer(form: object, arguments: object) -> None:
    assert callable(form)
    function = {"name": "f", "arguments": arguments}
    assert form((CALL, ANSWER)) == [
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "Hm.",
            "tool_calls": [{"type": "function", "id": "7", "function": function}],
        },
        {"role": "tool", "content": "r", "name": "f", "tool_call_id": "7"},
    ]


def test_what_is_absent_has_no_key() -> None:
    message = Message(role="user", content="a")
    assert template_messages((message,)) == request_messages((message,)) == [{"role": "user", "content": "a"}]
    (call,) = template_messages(
        (Message(role="assistant", content="", tool_calls=(ToolCall(name="f", arguments=JsonObject("{}")),)),)
    )
    assert "id" not in call["tool_calls"][0]


def test_no_tools_are_none_and_not_an_empty_list() -> None:
    tool = JsonObject('{"type": "function"}')
    without = Conversation(id="c", group="USER", messages=())
    assert declared_tools(without) is None
    assert declared_tools(Conversation(id="c", group="USER", messages=(), tools=(tool,))) == [{"type": "function"}]
