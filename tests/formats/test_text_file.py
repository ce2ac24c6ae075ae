from __future__ import annotations

from pathlib import Path

import pytest

from packager.formats.text_file import write_text


@pytest.mark.parametrize(
    "text", ["", "a\nb\n", "a\r\nb\r", "中文 é 😀\n"], ids=["empty", "lines", "returns", "unicode"]
)
def test_bytes_are_the_text_in_utf8(tmp_path: Path, text: str) -> None:
    path = write_text(tmp_path / "file", text)
    assert path == tmp_path / "file"
    assert path.read_bytes() == text.encode()


def test_an_existing_file_is_replaced(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "long text")
    assert write_text(tmp_path / "file", "x").read_bytes() == b"x"
