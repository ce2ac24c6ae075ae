from __future__ import annotations

from pathlib import Path

import pytest

from packager.codec import pretty_json
from packager.durable import FileDigest
from packager.sources.hub_records import (
    PRIVATE,
    RECEIPT,
    FetchedReceipt,
    known_files,
    read_receipt,
    read_ref,
    write_receipt,
    write_ref,
)

DIGESTS = (FileDigest(name="a.safetensors", size_bytes=9, sha256="0" * 64),)


def test_a_ref_is_read_back_and_a_commit_needs_none(tmp_path: Path) -> None:
    write_ref(tmp_path, "refs/pr/1", "c" * 40)
    assert read_ref(tmp_path, "refs/pr/1") == (tmp_path / "refs/refs/pr/1").read_text() == "c" * 40
    write_ref(tmp_path, "d" * 40, "d" * 40)
    assert read_ref(tmp_path, "d" * 40) is None
    (tmp_path / "refs/main").write_text("../../outside")
    assert read_ref(tmp_path, "main") is None


def receipt_text(name: str, *, complete: bool) -> str:
    files = (FileDigest(name=name, size_bytes=1, sha256="0"),)
    return pretty_json(FetchedReceipt(source="hf:a/b", revision="c", files=files, complete=complete))


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"source": 1}', receipt_text("x", complete=False), receipt_text("../x", complete=True),
     receipt_text("/x", complete=True)],
    ids=["empty", "cut", "list", "object", "type", "not to the end", "outside", "absolute"],
)  # fmt: skip
def test_a_receipt_that_cannot_be_trusted_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / PRIVATE).mkdir()
    (tmp_path / PRIVATE / RECEIPT).write_text(text)
    assert read_receipt(tmp_path) is None


@pytest.mark.parametrize("complete", [True, False], ids=["whole", "being filled"])
def test_a_receipt_is_read_back_and_counts_when_it_is_complete(tmp_path: Path, complete: bool) -> None:
    receipt = FetchedReceipt(source="hf:a/b", revision="c", files=DIGESTS, complete=complete)
    (tmp_path / PRIVATE).mkdir()
    write_receipt(tmp_path, receipt)
    assert read_receipt(tmp_path) == (receipt if complete else None)
    assert known_files(tmp_path) == DIGESTS
