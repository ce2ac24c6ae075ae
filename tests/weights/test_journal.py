from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from packager.errors import InputInvalid
from packager.weights.journal import FileMark, Journal, Mark, Position

CONTENT = {"a": b"0123456789" * 1000, "b": b"abcdefghij" * 500}
ENDS = {"a": (2000, 5000, 9000), "b": (100, 3000, 3000)}


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, ...]:
    for name, content in CONTENT.items():
        (tmp_path / name).write_bytes(content)
    return tuple(tmp_path / name for name in CONTENT)


@pytest.fixture
def journal(tmp_path: Path, files: tuple[Path, ...]) -> Journal:
    """Three marks in two files."""
    journal = Journal(tmp_path / "journal")
    for number in range(3):
        journal.add(mark(number))
    return journal


def mark(number: int) -> Mark:
    ends = {name: sizes[number] for name, sizes in ENDS.items()}
    return Mark(
        position=Position(tensor=number, row=7),
        files=tuple(
            FileMark(name=name, size_bytes=end, sha256=hashlib.sha256(CONTENT[name][:end]).hexdigest())
            for name, end in ends.items()
        ),
    )


def test_the_last_mark_is_continued_with_the_digest_of_what_is_there(journal: Journal, files: tuple[Path, ...]) -> None:
    kept = journal.kept(files)
    assert kept is not None
    assert kept.mark == mark(2)
    kept.hashes[0].update(b"more")
    assert kept.hashes[0].hexdigest() == hashlib.sha256(CONTENT["a"][:9000] + b"more").hexdigest()


def changed(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def cut_journal(folder: Path) -> None:
    text = (folder / "journal").read_bytes()
    (folder / "journal").write_bytes(text[:-20])


def changed_line(folder: Path) -> None:
    lines = (folder / "journal").read_text().splitlines()
    lines[1] = lines[1].replace("3000", "2000")
    (folder / "journal").write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("damage", "left"),
    [
        pytest.param(lambda folder: changed(folder / "a", 9500), 3, id="behind-the-last-mark"),
        pytest.param(lambda folder: changed(folder / "a", 8999), 2, id="before-the-last-mark"),
        pytest.param(lambda folder: changed(folder / "b", 100), 1, id="in-the-other-file"),
        pytest.param(lambda folder: changed(folder / "b", 0), 0, id="at-the-start"),
        pytest.param(lambda folder: (folder / "a").write_bytes(CONTENT["a"][:8000]), 2, id="too-short"),
        pytest.param(lambda folder: (folder / "b").unlink(), 0, id="missing"),
        pytest.param(cut_journal, 2, id="journal-cut-short"),
        pytest.param(changed_line, 1, id="journal-changed"),
        pytest.param(lambda folder: (folder / "journal").write_bytes(b"\xff[[1"), 0, id="no-journal-at-all"),
        pytest.param(lambda folder: (folder / "journal").unlink(), 0, id="journal-missing"),
    ],
)
def test_only_what_is_as_it_was_written_is_continued(
    damage: Callable[[Path], object], left: int, journal: Journal, files: tuple[Path, ...], tmp_path: Path
) -> None:
    damage(tmp_path)
    for _ in range(2):  # the journal then says what was found
        kept = journal.kept(files)
        assert (kept.mark if kept is not None else None) == (mark(left - 1) if left else None)
    journal.remove()
    assert journal.kept(files) is None


def test_marks_of_other_files_do_not_count(journal: Journal, files: tuple[Path, ...], tmp_path: Path) -> None:
    assert journal.kept(files[:1]) is None
    (tmp_path / "c").write_bytes(CONTENT["b"])
    assert journal.kept((files[0], tmp_path / "c")) is None


def test_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputInvalid, match="absent/journal"):
        Journal(tmp_path / "absent" / "journal").add(mark(0))
