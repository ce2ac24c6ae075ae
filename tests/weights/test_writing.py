from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest

from packager.artifacts import Quant
from packager.errors import InputInvalid, NoSpace
from packager.events import Advanced, Event
from packager.formats.gguf import GgmlType, MetadataEntry, ValueType
from packager.weights import writing as writing_module
from packager.weights.gguf_output import GgufOutput, HeaderDiffers, partial_path
from packager.weights.journal import Journal, Kept, Position
from packager.weights.stream import ConvertedBlock
from packager.weights.writing import OutputWriter, Progress, left_or_removed

METADATA = (MetadataEntry(key="general.architecture", type=ValueType.STRING, value="llama"),)
ROWS, COLUMNS = 6, 8
NAMES = ("a", "b", "c")
KINDS = {Quant.F16: GgmlType.F16, Quant.Q8_0: GgmlType.F32}  # small rows fit no block


def outputs(folder: Path, kept: Kept | None = None) -> list[GgufOutput]:
    marks = [None, None] if kept is None else list(zip(kept.mark.files, kept.hashes, strict=True))
    return [
        GgufOutput(folder / f"{quant}.gguf", quant, METADATA, [(name, (ROWS, COLUMNS), kind) for name in NAMES], mark)
        for (quant, kind), mark in zip(KINDS.items(), marks, strict=True)
    ]


def blocks() -> list[ConvertedBlock]:
    """Two for each tensor."""
    made = []
    for number, name in enumerate(NAMES):
        for row in (3, 6):
            data = {kind: memoryview(bytes([number + row]) * 3 * COLUMNS * size) for kind, size in SIZES.items()}
            after = Position(tensor=number + row // 6, row=row % 6)
            made.append(ConvertedBlock(name=name, data=data, last=row == 6, after=after))
    return made


SIZES = {GgmlType.F16: 2, GgmlType.F32: 4}


def write_all(folder: Path, made: list[GgufOutput], count: int | None = None) -> tuple[str, ...]:
    with OutputWriter(made, Journal(folder / "journal"), lambda size, name: None) as writer:
        for block in blocks()[:count]:
            writer.write(block)
        return tuple(gguf.sha256 for gguf in writer.finish())


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mark after every block, unless one is being made."""
    monkeypatch.setattr(writing_module, "_MARK_BYTES", (1, 1))


def test_files_are_written_in_order_and_the_journal_goes_with_the_last(tmp_path: Path, often: None) -> None:
    digests = write_all(tmp_path, outputs(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f16.gguf", "q8_0.gguf"]
    assert digests == tuple(hashlib.sha256((tmp_path / f"{q}.gguf").read_bytes()).hexdigest() for q in KINDS)
    f16 = (tmp_path / "f16.gguf").read_bytes()
    assert f16.endswith(b"".join(bytes([n + row]) * 48 for n in range(3) for row in (3, 6)))


def test_an_interrupted_pass_goes_on_at_its_last_mark(tmp_path: Path, often: None) -> None:
    (tmp_path / "whole").mkdir()
    digests = write_all(tmp_path / "whole", outputs(tmp_path / "whole"))
    journal, made = Journal(tmp_path / "journal"), outputs(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        interrupted(made, journal, tmp_path)
    kept = journal.kept(tuple(partial_path(tmp_path / f"{quant}.gguf") for quant in KINDS))
    assert kept is not None
    rest = [block for block in blocks() if order(block.after) > order(kept.mark.position)]
    assert 3 <= len(rest) < 6
    made = outputs(tmp_path, kept)
    before = sum(output.data_bytes_before(kept.mark.position) for output in made)
    assert before == (6 - len(rest)) * 3 * COLUMNS * (2 + 4)
    with OutputWriter(made, journal, lambda size, name: None) as writer:
        for block in rest:
            writer.write(block)
        assert tuple(gguf.sha256 for gguf in writer.finish()) == digests
    assert not (tmp_path / "journal").exists()


def interrupted(made: list[GgufOutput], journal: Journal, folder: Path) -> None:
    """Write half of the blocks and be interrupted as soon as there is a mark."""
    with left_or_removed(made, journal), OutputWriter(made, journal, lambda size, name: None) as writer:
        for block in blocks()[:3]:
            writer.write(block)
        while not (folder / "journal").exists():
            threading.Event().wait(0.01)
        raise KeyboardInterrupt


def order(position: Position) -> tuple[int, int]:
    return position.tensor, position.row


def test_another_header_is_not_continued(tmp_path: Path, often: None) -> None:
    first, second = outputs(tmp_path)
    mark, digest = first.mark(), hashlib.sha256()
    first.close()
    second.discard()
    other = (MetadataEntry(key="general.architecture", type=ValueType.STRING, value="qwen2"),)
    tensors = [(name, (ROWS, COLUMNS), GgmlType.F16) for name in NAMES]
    with pytest.raises(HeaderDiffers):
        GgufOutput(first.path, Quant.F16, other, tensors, (mark, digest))
    assert partial_path(first.path).is_file()


@pytest.mark.parametrize("place", ["write", "sync"])
def test_a_full_disk_leaves_nothing(place: str, tmp_path: Path, often: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is found while writing or while a mark is made, the caller hears of it and nothing is kept."""

    def full(*_: object) -> None:
        raise NoSpace("the disk is full")

    made, journal = outputs(tmp_path), Journal(tmp_path / "journal")
    monkeypatch.setattr(GgufOutput, place, full)
    with pytest.raises(NoSpace), left_or_removed(made, journal):
        write_all(tmp_path, made)
    assert list(tmp_path.iterdir()) == []


def test_blocks_that_were_not_written_are_missed(tmp_path: Path) -> None:
    made, journal = outputs(tmp_path), Journal(tmp_path / "journal")
    with pytest.raises(InputInvalid, match="bytes were written of"), left_or_removed(made, journal):
        write_all(tmp_path, made, count=5)
    assert list(tmp_path.iterdir()) == []


def test_few_bytes_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer waits for the slowest file instead of keeping what comes."""
    monkeypatch.setattr(writing_module, "BYTES_WAITING", 1)
    told: list[tuple[int, str]] = []
    with OutputWriter(
        outputs(tmp_path), Journal(tmp_path / "j"), lambda size, name: told.append((size, name))
    ) as writer:
        for number, block in enumerate(blocks(), 1):
            writer.write(block)
            assert len(told) == number
        writer.finish()
    assert told == [(block.size_bytes, block.name) for block in blocks()]


def test_progress_starts_where_the_pass_does_and_reaches_the_total() -> None:
    events: list[Event] = []
    progress = Progress("quantize", 1000, events.append, 400)
    for _ in range(300):
        progress.advance(2, "w")
    found = [event.done for event in events if isinstance(event, Advanced)]
    assert (found[0], found[-1]) == (406, 1000)
    assert len(found) <= 200
