from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packager.errors import InputInvalid, UnsafeInput
from packager.formats.json_file import JsonObject, parse_object, read_bytes, read_object, read_text, refuse_code

PATH = Path("config.json")


def obj(**values: object) -> JsonObject:
    return JsonObject(path=PATH, values=values)


def test_accessors_give_what_is_there() -> None:
    source = obj(name="x", count=3, rate=0.5, whole=2, on=False, part={"inner": 1}, many=[1, "a"], nothing=None)
    assert source.text("name") == "x"
    assert source.integer("count") == 3
    assert source.number("rate") == 0.5
    assert isinstance(source.number("whole"), float)
    assert source.flag("on") is False
    assert source.items("many") == (1, "a")
    part = source.child("part")
    assert part is not None
    assert part.integer("inner") == 1


@pytest.mark.parametrize("accessor", ["text", "integer", "number", "flag", "child"])
@pytest.mark.parametrize("source", [obj(), obj(key=None)], ids=["absent", "null"])
def test_absent_and_null_are_none(accessor: str, source: JsonObject) -> None:
    assert getattr(source, accessor)("key") is None
    assert source.items("key") == ()


@pytest.mark.parametrize(
    ("accessor", "value"),
    [
        ("text", 1),
        ("integer", "1"),
        ("integer", True),
        ("integer", 1.0),
        ("number", "1"),
        ("number", False),
        ("number", float("nan")),
        ("number", float("inf")),
        ("number", 10**400),
        ("flag", 1),
        ("child", []),
        ("items", {}),
    ],
)
def test_another_type_is_refused_with_file_key_and_value(accessor: str, value: object) -> None:
    nested = JsonObject(path=PATH, values={"key": value}, where="outer")
    with pytest.raises(InputInvalid, match=r"^config\.json: outer\.key is ") as caught:
        getattr(nested, accessor)("key")
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 200
    assert caught.value.hint


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.text(), st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists)))
def test_parse_gives_what_was_dumped(values: dict[str, object]) -> None:
    assert parse_object(json.dumps(values), path=PATH, unique_keys=True) == values


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "1",
        '"x"',
        "null",
        "{'a': 1}",
        '{"a": 1,}',
        "\ufeff{}",
        '{"a":' * 100_000,
        f'{{"a": {"9" * 5000}}}',
    ],
    ids=["empty", "cut", "list", "number", "text", "null", "quotes", "comma", "bom", "deep", "digits"],
)
def test_what_is_no_object_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(InputInvalid, match=r"^config\.json: ") as caught:
        parse_object(text, path=PATH)
    assert "\n" not in caught.value.message


@given(st.text())
def test_any_text_gives_an_object_or_our_error(text: str) -> None:
    try:
        found = parse_object(text, path=PATH)
    except InputInvalid:
        return
    assert isinstance(found, dict)


def test_a_key_twice_is_refused_where_it_matters() -> None:
    text = '{"a": 1, "b": 2, "a": 3}'
    assert parse_object(text, path=PATH) == {"a": 3, "b": 2}
    with pytest.raises(InputInvalid, match="'a' appears twice"):
        parse_object(text, path=PATH, unique_keys=True)


def test_read_text_has_python_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_bytes("a\r\nb\rc\nÄ".encode())
    assert read_text(path) == path.read_text(encoding="utf-8") == "a\nb\nc\nÄ"


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * 11)
    (tmp_path / "latin").write_bytes(b"{\xe4}")
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    with pytest.raises(InputInvalid, match="no such file"):
        read_object(tmp_path / "absent")
    with pytest.raises(InputInvalid, match="11 bytes, at most 10"):
        read_bytes(tmp_path / "big", limit_bytes=10)
    with pytest.raises(InputInvalid, match=r"not UTF-8 text \(byte 1\)"):
        read_text(tmp_path / "latin")
    with pytest.raises(InputInvalid, match="not a regular file"):
        read_bytes(tmp_path / "pipe", limit_bytes=10)
    with pytest.raises(InputInvalid, match="not a regular file"):
        read_bytes(tmp_path, limit_bytes=10)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"auto_map": {"AutoConfig": "x.Y"}}, "auto_map"),
        ({"text_config": {"auto_map": {"AutoModel": "x.Y"}}}, "auto_map"),
        ({"parts": [{"custom_code": "x.py"}]}, "custom_code"),
        ({"custom_pipelines": {"chat": {"impl": "x.Y"}}}, "custom_pipelines"),
        ({"trust_remote_code": True}, "trust_remote_code"),
        ({"_attn_implementation": "someone/kernel"}, "_attn_implementation"),
        ({"experts_implementation": "someone/kernel:fast"}, "experts_implementation"),
    ],
    ids=["top", "nested", "in-list", "pipelines", "trust", "kernel", "experts"],
)
def test_code_is_refused_by_name(values: dict[str, object], key: str) -> None:
    with pytest.raises(UnsafeInput, match=rf"^config\.json: {key} "):
        refuse_code(obj(**values))


@pytest.mark.parametrize(
    "values",
    [{}, {"auto_map": {}}, {"auto_map": None}, {"trust_remote_code": False}, {"_attn_implementation": "sdpa"}],
    ids=["empty", "empty-map", "null", "no-trust", "built-in"],
)
def test_what_runs_no_code_is_let_through(values: dict[str, object]) -> None:
    refuse_code(obj(**values))
