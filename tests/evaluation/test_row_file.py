"""Rows survive a kill, and are never continued under another header."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

from packager.errors import InputInvalid, NoSpace
from packager.evaluation.row_file import HEADER_NAME, ROWS_NAME, SUMMARY_NAME, Header, RowFile
from packager.evaluation.sides import SideName
from tests.evaluation.rows_and_headers import ALONE, HEADER, PACKAGED, REFERENCE, answered, unanswered

ROWS = [
    answered(1, SideName.PACKAGED, 12.5),
    unanswered(2, SideName.PACKAGED),
    answered(1, SideName.REFERENCE, 0.1 + 0.2),
]
CHANGED = {
    "the model": (replace(HEADER, packaged=replace(PACKAGED, name="other")), "packaged name: packy:q8_0, now other"),
    "its engine": (
        replace(HEADER, packaged=replace(PACKAGED, engine="ollama 0.35.0")),
        "packaged engine: ollama 0.34.0, now ollama 0.35.0",
    ),
    "its weights": (
        replace(HEADER, packaged=replace(PACKAGED, weights_sha256="0" * 64)),
        f"packaged weights_sha256: {'a' * 64}, now {'0' * 64}",
    ),
    "its settings": (
        replace(HEADER, packaged=replace(PACKAGED, settings_sha256="0" * 64)),
        f"packaged settings_sha256: {'b' * 64}, now {'0' * 64}",
    ),
    "the reference": (
        replace(HEADER, reference=replace(REFERENCE, weights_sha256="0" * 64)),
        f"reference weights_sha256: {'c' * 64}, now {'0' * 64}",
    ),
    "no reference": (ALONE, "reference: base+lora, now none"),
    "the data": (replace(HEADER, data_sha256="0" * 64), f"data_sha256: {'e' * 64}, now {'0' * 64}"),
    "the rows": (replace(HEADER, rows=4), "rows: 3, now 4"),
    "the tokens": (replace(HEADER, max_tokens=9), "max_tokens: 8, now 9"),
    "the metric": (replace(HEADER, metric="another"), "metric: a metric, now another"),
    "packager": (replace(HEADER, packager="0.2.0"), "packager: 0.1.0, now 0.2.0"),
}


def write(folder: Path, header: Header = HEADER) -> bytes:
    with RowFile(folder, header, restart=False) as file:
        for row in ROWS:
            file.add(row)
    return (folder / ROWS_NAME).read_bytes()


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    data = write(tmp_path)

    with RowFile(tmp_path, HEADER, restart=False) as file:
        assert list(file.rows.values()) == ROWS
        assert list(file.rows) == [(row.side, row.row) for row in ROWS]
    assert (tmp_path / ROWS_NAME).read_bytes() == data
    assert "问" in data.decode()


@pytest.mark.parametrize("cut", [1, 40], ids=["without its newline", "in the middle"])
def test_a_torn_last_row_is_dropped_and_written_again(tmp_path: Path, cut: int) -> None:
    data = write(tmp_path)
    (tmp_path / ROWS_NAME).write_bytes(data[:-cut])

    with RowFile(tmp_path, HEADER, restart=False) as file:
        assert list(file.rows.values()) == ROWS[:-1]
        file.add(ROWS[-1])
    assert (tmp_path / ROWS_NAME).read_bytes() == data


def test_every_row_is_in_the_file_when_it_was_added(tmp_path: Path) -> None:
    with RowFile(tmp_path, HEADER, restart=False) as file:
        for count, row in enumerate(ROWS, start=1):
            file.add(row)
            assert (tmp_path / ROWS_NAME).read_bytes().count(b"\n") == count


@pytest.mark.parametrize(("header", "difference"), CHANGED.values(), ids=CHANGED)
def test_another_header_is_refused_with_both_values(tmp_path: Path, header: Header, difference: str) -> None:
    data = write(tmp_path)

    with pytest.raises(InputInvalid) as caught, RowFile(tmp_path, header, restart=False):
        pass

    assert caught.value.message == f"{tmp_path / ROWS_NAME}: it was begun with another {difference}"
    assert caught.value.hint == "Choose another folder with -o DIR, or begin anew with --restart."
    assert (tmp_path / ROWS_NAME).read_bytes() == data


def test_every_field_of_a_header_is_compared() -> None:
    changed = {field.name for header, _ in CHANGED.values() for field in fields(Header)
               if getattr(header, field.name) != getattr(HEADER, field.name)}  # fmt: skip
    assert changed == {field.name for field in fields(Header)}


@pytest.mark.parametrize("header", [HEADER, ALONE], ids=["the same header", "another one"])
def test_a_restart_throws_everything_away(tmp_path: Path, header: Header) -> None:
    write(tmp_path)
    (tmp_path / SUMMARY_NAME).write_text("{}")

    with RowFile(tmp_path, header, restart=True) as file:
        assert file.rows == {}
    assert (tmp_path / ROWS_NAME).read_bytes() == b""
    assert not (tmp_path / SUMMARY_NAME).exists()
    with RowFile(tmp_path, header, restart=False):
        pass  # the new header holds


def test_a_header_without_rows_binds_nothing(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / ROWS_NAME).unlink()

    with RowFile(tmp_path, ALONE, restart=False) as file:
        assert file.rows == {}


@pytest.mark.parametrize("name", [ROWS_NAME, SUMMARY_NAME])
@pytest.mark.parametrize("restart", [False, True], ids=["plain", "restart"])
def test_files_of_somebody_else_are_left_alone(tmp_path: Path, name: str, restart: bool) -> None:
    (tmp_path / name).write_text("mine")

    with (
        pytest.raises(InputInvalid, match="exists, and packager did not write it"),
        RowFile(tmp_path, HEADER, restart=restart),
    ):
        pass

    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        pytest.param(b"{}\n", "line 1: missing field 'side'", id="no row"),
        pytest.param(b"nonsense\n", "Expecting value", id="no JSON"),
        pytest.param(b"\xff\n", "can't decode", id="no UTF-8"),
        pytest.param(b"[" * 100_000 + b"\n", "recursion", id="deep"),
    ],
)
def test_a_damaged_row_is_named(tmp_path: Path, damage: bytes, reason: str) -> None:
    data = write(tmp_path)
    (tmp_path / ROWS_NAME).write_bytes(damage + data)

    with pytest.raises(InputInvalid) as caught, RowFile(tmp_path, HEADER, restart=False):
        pass

    assert caught.value.message.startswith(f"{tmp_path / ROWS_NAME}: line 1 is damaged (")
    assert reason in caught.value.message


def test_a_damaged_header_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / HEADER_NAME).write_text("{")

    with (
        pytest.raises(InputInvalid, match=r"header\.json: it cannot be read"),
        RowFile(tmp_path, HEADER, restart=False),
    ):
        pass


def test_a_full_disk_is_said_so(tmp_path: Path) -> None:
    def fill() -> None:
        with RowFile(tmp_path, HEADER, restart=False) as file:
            assert file._file is not None
            file._file.close()
            file._file = Path("/dev/full").open("ab")  # noqa: SIM115  # closed by RowFile, which is the point
            file.add(ROWS[0])

    with pytest.raises(NoSpace, match=r"rows\.jsonl: No space left"):
        fill()
