from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packager.errors import InputInvalid, PackagerError
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
SKIPPED = {
    "tool call": ({"messages": [{"role": "tool", "content": "x"}, {"role": "user", "content": "a"}]}, "'tool'"),
    "image": ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "image_url"),
    "no content": ({"messages": [{"role": "user", "content": None}]}, "None"),
    "a tool is called": (
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "", "tool_calls": [1]}]},
        "calls a tool",
    ),
    "tools are declared": ({**OPENAI, "tools": [{"name": "f"}]}, "declares tools"),
    "system at the end": ({"messages": [*OPENAI["messages"], {"role": "system", "content": "S"}]}, "at its end"),
    "history of one": ({"instruction": "a", "history": [["q"]]}, "history is no list of pairs"),
    "instruction is a number": ({"instruction": 0}, "instruction is 0"),
    "part without text": ({"messages": [{"role": "user", "content": [{"type": "text", "text": None}]}]}, "no text"),
    "system is a list": ({**OPENAI, "system": ["S"]}, "system is a list"),
    "answer only": ({"messages": [{"role": "assistant", "content": "b"}]}, "no turn of a user at its end"),
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
    "text", "tools", "tool_calls",
)  # fmt: skip
WORDS = st.sampled_from(["user", "human", "assistant", "gpt", "system", "text", "tool", "", "a"])
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
        assert conversation.messages[-1].role == "user"
        assert all(turn.content.encode("utf-8") is not None for turn in conversation.messages)
