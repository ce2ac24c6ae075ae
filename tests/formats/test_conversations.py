from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packager.artifacts import Message, ToolCall
from packager.codec import JsonObject, pretty_json
from packager.errors import InputInvalid, PackagerError
from packager.formats.chat_messages import template_messages
from packager.formats.conversations import LINE_LIMIT_BYTES, read_conversations

OPENAI = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
USED = {
    "openai": (OPENAI, [("user", "a")]),
    "openai with a history": (
        {"messages": [*OPENAI["messages"], {"role": "user", "content": "c"}]},
        [("user", "a"), ("assistant", "b"), ("user", "c")],
    ),
    "two answers at the end": (
        {"messages": [*OPENAI["messages"], {"role": "assistant", "content": "c"}]},
        [("user", "a")],
    ),
    "openai text parts": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]},
        [("user", "ab")],
    ),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system": "S"},
        [("system", "S"), ("user", "a")],
    ),
    "sharegpt with a system turn": (
        {"conversations": [{"from": "system", "value": "T"}, {"from": "human", "value": "a"}], "system": "S"},
        [("system", "T"), ("user", "a")],
    ),
    "alpaca": ({"instruction": "a", "input": "", "output": "c"}, [("user", "a")]),
    "alpaca with input, history and system": (
        {"instruction": "a", "input": "b", "output": "c", "system": "S", "history": [["q", "r"]]},
        [("system", "S"), ("user", "q"), ("assistant", "r"), ("user", "a\nb")],
    ),
}


def calling(calls: object) -> dict[str, object]:
    """A conversation in which the assistant calls."""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "", "tool_calls": calls}]
    return {"messages": [*turns, {"role": "tool", "content": "x"}]}


SKIPPED = {
    "answer to nothing": (
        {"messages": [{"role": "tool", "content": "x"}, {"role": "user", "content": "a"}]},
        "nothing calls for",
    ),
    "unknown role": ({"messages": [{"role": "critic", "content": "x"}, {"role": "user", "content": "a"}]}, "'critic'"),
    "image": ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "image_url"),
    "no content": ({"messages": [{"role": "user", "content": None}]}, "None"),
    "a call without a name": (calling([1]), "has no name"),
    "calls are no list": (calling({"name": "f"}), "tool_calls is no list"),
    "arguments are no JSON": (calling([{"function": {"name": "f", "arguments": "{"}}]), "arguments is no JSON"),
    "arguments are a list": (calling([{"function": {"name": "f", "arguments": "[1]"}}]), "'f' are no object"),
    "an argument that is no number": (
        calling([{"function": {"name": "f", "arguments": '{"a": NaN}'}}]),
        "a number that is none",
    ),
    "half a character in an argument": (
        calling([{"function": {"name": "f", "arguments": {"a": "\ud800"}}}]),
        "half a character",
    ),
    "deep arguments": (
        calling([{"function": {"name": "f", "arguments": '{"a": ' + "[" * 40 + "1" + "]" * 40 + "}"}}]),
        "nested more",
    ),
    "a user calls": (
        {"messages": [{"role": "user", "content": "a", "tool_calls": [{"function": {"name": "f"}}]}]},
        "user calls a tool",
    ),
    "a tool without a name": ({**OPENAI, "tools": [{"parameters": {}}]}, "without a name"),
    "tools are an object": ({**OPENAI, "tools": {"name": "f"}}, "tools is no list"),
    "tools are no JSON": ({**OPENAI, "tools": "[{"}, "tools is no JSON"),
    "a tool is a word": ({**OPENAI, "tools": ["f"]}, "no object"),
    "a call that is no JSON": (
        {"conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": "f(1)"}]},
        "is no JSON",
    ),
    "no call": (
        {"conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": "[]"}]},
        "calls nothing",
    ),
    "system at the end": ({"messages": [*OPENAI["messages"], {"role": "system", "content": "S"}]}, "at its end"),
    "history of one": ({"instruction": "a", "history": [["q"]]}, "history is no list of pairs"),
    "instruction is a number": ({"instruction": 0}, "instruction is 0"),
    "part without text": ({"messages": [{"role": "user", "content": [{"type": "text", "text": None}]}]}, "no text"),
    "system is a list": ({**OPENAI, "system": ["S"]}, "system is a list"),
    "answer only": ({"messages": [{"role": "assistant", "content": "b"}]}, "no turn of a user or a tool at its end"),
    "another form": ({"text": "a"}, "ShareGPT"),
    "half a character": ({"messages": [{"role": "user", "content": "\ud800"}]}, "no text"),
}
REFUSED = {
    "empty": (b"", "empty"),
    "not json": (b'{"messages": [}', "line 1 is not JSON (Expecting value, column 15)"),
    "an array": (b"[1]", "line 1 is no JSON object"),
    "not utf-8": (b'{"a": "\xff"}', "line 1 is not UTF-8 (byte 7)"),
    "a line without end": (b'"' + b"a" * LINE_LIMIT_BYTES, f"longer than {LINE_LIMIT_BYTES}"),
    "a deep line": (b"[" * 100_000, "line 1 is not JSON"),
}


def written(tmp_path: Path, *entries: object) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


@pytest.mark.parametrize(("entry", "turns"), USED.values(), ids=USED)
def test_a_line_of_each_form(entry: object, turns: list[tuple[str, str]], tmp_path: Path) -> None:
    (found,) = read_conversations(written(tmp_path, entry)).conversations
    assert [(turn.role, turn.content) for turn in found.messages] == turns
    assert (found.id, found.group) == ("line-1", "USER")


DECLARED = {"name": "f", "parameters": {"type": "object", "properties": {}}}
WRAPPED = {"type": "function", "function": DECLARED}


def round_trip(call_id: str = "call00001") -> list[Message]:
    call = ToolCall(name="f", arguments=JsonObject('{"b": "é", "a": 1}'), id=call_id)
    return [
        Message(role="user", content="a"),
        Message(role="assistant", content="", tool_calls=(call,)),
        Message(role="tool", content="r", tool_name="f", tool_call_id=call_id),
    ]


@pytest.mark.parametrize("declared", [[WRAPPED], [DECLARED], json.dumps([DECLARED])], ids=["wrapped", "bare", "text"])
@pytest.mark.parametrize("arguments", [{"b": "é", "a": 1}, '{"b": "é", "a": 1}'], ids=["object", "text"])
def test_a_round_trip_in_openais_form(declared: object, arguments: object, tmp_path: Path) -> None:
    call = {"id": "abc", "type": "function", "function": {"name": "f", "arguments": arguments}}
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "abc", "content": "r"},
        {"role": "assistant", "content": "the answer"},
    ]
    (found,) = read_conversations(written(tmp_path, {"messages": turns, "tools": declared})).conversations
    assert list(found.messages) == round_trip("abc")
    assert [tool.data() for tool in found.tools] == [WRAPPED]


def test_a_round_trip_in_sharegpts_form(tmp_path: Path) -> None:
    turns = [
        {"from": "human", "value": "a"},
        {"from": "function_call", "value": '{"name": "f", "arguments": {"b": "é", "a": 1}}'},
        {"from": "observation", "value": "r"},
        {"from": "gpt", "value": "the answer"},
    ]
    entry = {"conversations": turns, "tools": json.dumps([DECLARED])}
    (found,) = read_conversations(written(tmp_path, entry)).conversations
    assert list(found.messages) == round_trip()
    assert [tool.data() for tool in found.tools] == [WRAPPED]


def test_two_calls_at_once_are_answered_in_their_order(tmp_path: Path) -> None:
    calls = '<think>\nBoth.\n</think>\n[{"name": "f", "arguments": {}}, {"name": "g", "arguments": {}}]'
    turns = [{"from": "human", "value": "a"}, {"from": "function_call", "value": calls}]
    turns += [{"from": "observation", "value": value} for value in ("r", "s")]
    (found,) = read_conversations(written(tmp_path, {"conversations": turns})).conversations
    assert found.messages[1].content == "<think>\nBoth.\n</think>"
    assert [(turn.tool_name, turn.tool_call_id, turn.content) for turn in found.messages[2:]] == [
        ("f", "call00001", "r"),
        ("g", "call00002", "s"),
    ]


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_is_kept_apart(key: str, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", key: "Hm."}]
    entry = {"messages": [*turns, {"role": "user", "content": "c"}]}
    (found,) = read_conversations(written(tmp_path, entry)).conversations
    assert found.messages[1] == Message(role="assistant", content="b", thinking="Hm.")


@pytest.mark.parametrize(("entry", "word"), SKIPPED.values(), ids=SKIPPED)
def test_a_line_that_cannot_be_used_is_told(entry: object, word: str, tmp_path: Path) -> None:
    found = read_conversations(written(tmp_path, entry, OPENAI))
    assert [conversation.id for conversation in found.conversations] == ["line-2"]
    ((line, reason),) = [(skipped.line, skipped.reason) for skipped in found.skipped]
    assert line == 1
    assert word in reason
    with pytest.raises(InputInvalid, match="no conversation can be used"):
        read_conversations(written(tmp_path, entry))


@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=REFUSED)
def test_a_damaged_file_is_refused_by_name_and_line(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(data)
    with pytest.raises(InputInvalid) as caught:
        read_conversations(path)
    assert str(path) in caught.value.message
    assert message in caught.value.message


def test_blank_lines_windows_lines_and_a_mark_are_read_over(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"\xef\xbb\xbf\r\n" + json.dumps(OPENAI).encode() + b"\r\n\r\n  \n" + json.dumps(OPENAI).encode())
    assert [c.id for c in read_conversations(path).conversations] == ["line-2", "line-5"]


def test_no_more_than_asked_for_are_read(tmp_path: Path) -> None:
    path = written(tmp_path, *[OPENAI] * 5)
    path.write_text(path.read_text() + "not json\n")
    assert len(read_conversations(path, limit=5).conversations) == 5


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputInvalid, match="not a file"):
        read_conversations(tmp_path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputInvalid, match=r"none\.jsonl: No such file"):
        read_conversations(tmp_path / "none.jsonl")


KEYS = (
    "messages", "conversations", "instruction", "input", "history", "system", "role", "content", "from", "value", "type",
    "text", "tools", "tool_calls", "function", "name", "arguments", "id", "tool_call_id", "reasoning_content",
)  # fmt: skip
WORDS = st.sampled_from(
    ["user", "human", "assistant", "gpt", "system", "text", "tool", "function_call", "observation", "", "a", "{}"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
)
TURN = st.fixed_dictionaries({"role": WORDS, "content": JSON}) | st.fixed_dictionaries({"from": WORDS, "value": JSON})
LINE = JSON | st.fixed_dictionaries(
    {}, optional={"messages": st.lists(TURN), "conversations": st.lists(TURN), "instruction": JSON, "history": JSON}
)


@given(data=st.binary() | st.lists(LINE).map(lambda lines: "\n".join(map(json.dumps, lines)).encode()))
def test_any_file_gives_conversations_that_end_with_a_user_or_an_error_of_ours(
    data: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(data)
    try:
        found = read_conversations(path)
    except PackagerError:
        return
    for conversation in found.conversations:
        assert conversation.messages[-1].role in ("user", "tool")
        assert pretty_json(conversation).encode("utf-8")
        assert template_messages(conversation.messages)
        calls = [call.id for turn in conversation.messages for call in turn.tool_calls]
        assert {turn.tool_call_id for turn in conversation.messages if turn.role == "tool"} <= set(calls)
