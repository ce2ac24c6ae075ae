from __future__ import annotations

import json
from pathlib import Path

import pytest

from packager.chat.originals import Original, folder_original, named_original
from packager.errors import InputInvalid
from packager.formats.tokenizer import TEMPLATE_LIMIT_BYTES
from packager.named_templates import find_template, template_text
from tests.chat import samples


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"\xff\xff", "not UTF-8"),
        (b"", "empty"),
        (b"\n \n", "empty"),
        (b"x" * (TEMPLATE_LIMIT_BYTES + 1), "a chat template has at most"),
    ],
    ids=["missing", "not utf-8", "empty", "blank", "too long"],
)
def test_a_file_that_is_no_template_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "mine.jinja"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputInvalid, match=message) as caught:
        named_original(str(path))
    assert str(path) in caught.value.message


def test_newlines_of_a_file_are_kept_and_its_mark_is_not(tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_bytes(b"\xef\xbb\xbfa\r\nb\n")
    assert named_original(str(path)).text == "a\r\nb\n"


@pytest.mark.parametrize("name", ["chatml", "llamafactory:yi", "yi", "xtuner:qwen_chat", "qwen_chat", "llama3.1"])
def test_a_name_is_a_template_of_the_index_with_its_stops(name: str) -> None:
    entry = find_template(name)
    assert named_original(name) == Original(
        source=f"the named template {name}", text=template_text(entry), choice=name, stops=entry.stop
    )


def test_an_existing_file_or_folder_comes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("chatml").write_text(samples.TRIMS)
    assert named_original("chatml") == Original(source="the file chatml", text=samples.TRIMS, choice="chatml")
    Path("qwen").mkdir()
    Path("qwen/tokenizer_config.json").write_text(json.dumps({"chat_template": samples.CHATML}))
    assert named_original("qwen").text == samples.CHATML
    Path("zephyr").mkdir()
    with pytest.raises(InputInvalid, match="zephyr: no chat template in it"):
        named_original("zephyr")


@pytest.mark.parametrize("typed", ["./chatml", "folder/qwen", "qwen.jinja", "/qwen"])
def test_what_looks_like_a_path_is_never_a_name(typed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputInvalid, match="cannot be read"):
        named_original(typed)


def test_an_unknown_name_has_what_is_near() -> None:
    with pytest.raises(InputInvalid, match="qwen4: no such file, and no named template; near: qwen, qwen3") as caught:
        named_original("qwen4")
    assert caught.value.exit_code == 3


def test_the_choice_of_a_folder_is_its_file_where_it_has_one(tmp_path: Path) -> None:
    assert folder_original("a folder", tmp_path, None) is None
    assert folder_original("a folder", tmp_path, "x") == Original(source="a folder", text="x", choice=str(tmp_path))
    file = tmp_path / "chat_template.jinja"
    file.write_text("x")
    assert folder_original("a folder", tmp_path, "x") == Original(source="a folder", text="x", choice=str(file))
