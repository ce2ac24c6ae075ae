"""What `.packager/` remembers is believed only as long as nothing speaks against it."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from packager import receipts
from packager.durable import FileDigest
from packager.events import silent
from packager.receipts import DigestBook, Receipt, ReceiptBox

FALSE = "f" * 64  # a recorded digest that no file has: shows whether the book was believed
OUTPUT = FileDigest(name="m.gguf", size_bytes=7, sha256="a" * 64)
EARLIER = FileDigest(name="sub/old.gguf", size_bytes=8, sha256="b" * 64)
RECEIPT = Receipt(stage="quantize", key="k" * 64, outputs=(OUTPUT,), earlier=(EARLIER,), result={"files": ["m.gguf"]})


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def digest(book: Path, file: Path) -> str:
    """Ask a new book, and save it, as one run does."""
    digests = DigestBook(book)
    found = digests.digest(file, emit=silent, stage="inputs")
    digests.save()
    assert (found.name, found.size_bytes) == (file.name, file.stat().st_size)
    return found.sha256


def recorded(book: Path) -> list[dict[str, Any]]:
    return json.loads(book.read_text())["digests"]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The clock that the book reads: `ahead_ns` in front of the one that files are stamped with."""
    ahead = SimpleNamespace(ahead_ns=60 * 10**9)
    ahead.time_ns = lambda: time.time_ns() + ahead.ahead_ns
    monkeypatch.setattr(receipts, "time", ahead)
    return ahead


@pytest.fixture
def believed(tmp_path: Path, clock: SimpleNamespace) -> tuple[Path, Path]:
    """A book with a false digest of a settled file, and the file."""
    book, file = tmp_path / "digests.json", tmp_path / "w.safetensors"
    file.write_bytes(b"weights")
    assert digest(book, file) == sha256(b"weights")
    book.write_text(book.read_text().replace(sha256(b"weights"), FALSE))
    assert digest(book, file) == FALSE
    return book, file


# --- digests -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ahead_ns", "kept"), [(0, 0), (1_000_000_000, 0), (60_000_000_000, 1)], ids=["now", "one-second", "one-minute"]
)
def test_only_a_settled_file_is_remembered(ahead_ns: int, kept: int, clock: SimpleNamespace, tmp_path: Path) -> None:
    clock.ahead_ns = ahead_ns
    (tmp_path / "w").write_bytes(b"1")
    assert digest(tmp_path / "book", tmp_path / "w") == sha256(b"1")
    assert len(recorded(tmp_path / "book")) == kept


def test_an_old_time_does_not_make_a_new_file_settled(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"1")
    os.utime(tmp_path / "w", ns=(10**18, 10**18))  # as cp -p and unpackers leave it
    digest(tmp_path / "book", tmp_path / "w")
    assert recorded(tmp_path / "book") == []


def _same_size_and_time(file: Path) -> None:
    before = file.stat()
    file.write_bytes(b"WEIGHTS")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def _replaced(file: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(b"Weights")
    os.utime(other, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    other.replace(file)


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.write_bytes(b"weights and more"),
        lambda file: os.utime(file, ns=(10**18, 10**18)),
        _same_size_and_time,
        _replaced,
    ],
    ids=["size", "time", "bytes-under-the-same-time", "another-file"],
)
def test_a_changed_file_is_read_again(change: Callable[[Path], object], believed: tuple[Path, Path]) -> None:
    book, file = believed
    change(file)
    assert digest(book, file) == sha256(file.read_bytes())
    assert [item["sha256"] for item in recorded(book)] == [sha256(file.read_bytes())]


@pytest.mark.parametrize("field", ["size_bytes", "mtime_ns", "ctime_ns", "inode"], ids=str)
def test_each_part_of_a_files_state_counts(field: str, believed: tuple[Path, Path]) -> None:
    book, file = believed
    (known,) = recorded(book)
    book.write_text(json.dumps({"digests": [{**known, field: known[field] + 1}]}))
    assert digest(book, file) == sha256(b"weights")


SPOILED: dict[str, Callable[[bytes], bytes]] = {
    **{f"cut-{part}": (lambda data, part=part: data[: len(data) * part // 5]) for part in range(5)},
    "garbage": lambda data: b"\xff\x00garbage",
    "null": lambda data: b"null",
    "list": lambda data: b"[]",
    "deep": lambda data: b"[" * 100_000,
    "huge-number": lambda data: data.replace(b"7", b"7" * 5000),
    "no-text": lambda data: data.replace(b'sha256": "', b'sha256": 1, "x": "'),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_a_damaged_book_is_empty_and_is_written_anew(
    spoil: Callable[[bytes], bytes], believed: tuple[Path, Path]
) -> None:
    book, file = believed
    book.write_bytes(spoil(book.read_bytes()))
    assert digest(book, file) == sha256(b"weights")
    assert len(recorded(book)) == 1


# --- receipts ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def box(tmp_path: Path) -> ReceiptBox:
    return ReceiptBox(tmp_path / "receipts")


def test_a_receipt_comes_back_and_says_whose_files_are(box: ReceiptBox) -> None:
    assert box.load("quantize") is None
    box.save(RECEIPT)
    assert box.load("quantize") == RECEIPT
    assert [box.knows(name) for name in ("m.gguf", "sub/old.gguf", "old.gguf")] == [True, True, False]


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_a_damaged_receipt_is_as_none(spoil: Callable[[bytes], bytes], box: ReceiptBox, tmp_path: Path) -> None:
    box.save(RECEIPT)
    path = tmp_path / "receipts" / "quantize.json"
    path.write_bytes(spoil(path.read_bytes()))
    assert box.load("quantize") is None
    assert not box.knows("m.gguf")


def test_one_changed_byte_breaks_the_seal_wherever_it_is(box: ReceiptBox, tmp_path: Path) -> None:
    box.save(RECEIPT)
    path = tmp_path / "receipts" / "quantize.json"
    data = path.read_bytes()
    for at in (index for index, byte in enumerate(data) if chr(byte).isalnum()):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert box.load("quantize") is None, at
    path.write_bytes(data)
    assert box.load("quantize") == RECEIPT


def test_intents_name_what_killed_runs_may_have_published(box: ReceiptBox, tmp_path: Path) -> None:
    other = FileDigest(name="m.gguf", size_bytes=9, sha256="c" * 64)
    box.intend("quantize", (OUTPUT, EARLIER))
    box.intend("verify", (other,))
    (tmp_path / "receipts" / "merge.intent").write_text("{garbage")
    assert set(box.intended("m.gguf")) == {"a" * 64, "c" * 64}
    assert box.intended("sub/old.gguf") == ("b" * 64,)
    assert box.intended("old.gguf") == ()
    assert not box.knows("m.gguf")  # an intent is not proof
    box.save(RECEIPT)
    assert box.intended("m.gguf") == ("c" * 64,)


@pytest.mark.parametrize(("outputs", "left"), [((OUTPUT,), 0), ((EARLIER,), 1)], ids=["fulfilled", "other-files"])
def test_an_intent_is_settled_by_the_receipt_that_fulfils_it(
    outputs: tuple[FileDigest, ...], left: int, box: ReceiptBox
) -> None:
    box.intend("quantize", outputs)
    box.settle(RECEIPT)
    box.settle(RECEIPT)  # with nothing left to settle
    assert len(box.intended(outputs[0].name)) == left
