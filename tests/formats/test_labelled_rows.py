"""Every row has its label, or the file is refused with the line that has none."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from packager.errors import InputInvalid
from packager.formats.labelled_rows import read_labelled_rows

USER, ANSWER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
READ = {
    "openai": ({"messages": [USER, ANSWER]}, [("user", "a")], "b"),
    "openai with a history": (
        {"messages": [USER, ANSWER, {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]},
        [("user", "a"), ("assistant", "b"), ("user", "c")],
        "d",
    ),
    "a turn of the user behind the last answer": ({"messages": [USER, ANSWER, USER]}, [("user", "a")], "b"),
    "text parts": (
        {"messages": [USER, {"role": "assistant", "content": [{"type": "text", "text": "x"}, {"type": "text", "text": "y"}]}]},
        [("user", "a")],
        "xy",
    ),
    "blanks of a label are kept": ({"messages": [USER, {"role": "assistant", "content": " b\n"}]}, [("user", "a")], " b\n"),
    "reasoning is no part of it": (
        {"messages": [USER, {**ANSWER, "reasoning_content": "because"}]}, [("user", "a")], "b",
    ),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system": "S"},
        [("system", "S"), ("user", "a")],
        "b",
    ),
    "alpaca": (
        {"instruction": "a", "input": "i", "output": "b", "history": [["q", "r"]], "system": "S"},
        [("system", "S"), ("user", "q"), ("assistant", "r"), ("user", "a\ni")],
        "b",
    ),
}  # fmt: skip
REFUSED = {
    "no answer": ({"messages": [USER]}, "no turn of the assistant, so no label"),
    "a blank answer": (
        {"messages": [USER, {"role": "assistant", "content": " \n"}]}, "its last answer has no text, so no label",
    ),
    "a call": (
        {"messages": [USER, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}]},
        "its last answer has no text, so no label",
    ),
    "two answers": ({"messages": [USER, ANSWER, ANSWER]}, "no turn of a user or a tool before its last answer"),
    "an answer only": ({"messages": [ANSWER]}, "no turn of a user or a tool before its last answer"),
    "alpaca without output": ({"instruction": "a"}, "output is None, which is no text"),
    "alpaca with a blank output": ({"instruction": "a", "output": ""}, "its last answer has no text, so no label"),
    "another form": ({"text": "a"}, "it has neither messages (OpenAI), conversations (ShareGPT) or instruction (Alpaca)"),
    "an image": ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, ANSWER]},
                 "content is a list with a part of type 'image_url', which is no text"),
}  # fmt: skip


def written(folder: Path, *entries: object) -> Path:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


@pytest.mark.parametrize(("entry", "turns", "label"), READ.values(), ids=READ)
def test_a_row_of_each_form(entry: object, turns: list[tuple[str, str]], label: str, tmp_path: Path) -> None:
    (row,) = read_labelled_rows(written(tmp_path, entry))

    assert [(turn.role, turn.content) for turn in row.conversation.messages] == turns
    assert (row.number, row.label, row.question) == (1, label, turns[-1][1])
    assert row.sha256 == hashlib.sha256(json.dumps(entry).encode()).hexdigest()


@pytest.mark.parametrize(("entry", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_row_without_a_label_is_named(entry: object, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(f"{json.dumps({'messages': [USER, ANSWER]})}\n\n{json.dumps(entry)}")  # the blank line counts

    with pytest.raises(InputInvalid) as caught:
        read_labelled_rows(path)

    assert caught.value.message == f"{path}: line 3: {reason}"


def test_a_limit_reads_no_further(tmp_path: Path) -> None:
    path = written(tmp_path, *[{"messages": [USER, ANSWER]}] * 3, "damaged")

    assert [row.number for row in read_labelled_rows(path, limit=3)] == [1, 2, 3]
    with pytest.raises(InputInvalid, match="line 4 is no JSON object"):
        read_labelled_rows(path)


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    with pytest.raises(InputInvalid, match="there are no rows in it"):
        read_labelled_rows(written(tmp_path))


def test_declared_functions_are_read(tmp_path: Path) -> None:
    tools = [{"name": "f", "parameters": {"type": "object"}}]
    (row,) = read_labelled_rows(written(tmp_path, {"messages": [USER, ANSWER], "tools": tools}))

    assert [tool.data()["function"]["name"] for tool in row.conversation.tools] == ["f"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputInvalid) as caught:
        read_labelled_rows(tmp_path / "none.jsonl")

    assert caught.value.message == f"{tmp_path / 'none.jsonl'}: No such file or directory"
    assert caught.value.hint == "Give a .jsonl file, one row a line."
