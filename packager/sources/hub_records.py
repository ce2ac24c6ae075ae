"""What is remembered of what was fetched: in a folder, its receipt; in a cache, the commit that a branch was at."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from packager.codec import decode, pretty_json
from packager.durable import FileDigest, disk_errors, write_durably
from packager.errors import InputInvalid

PRIVATE = ".packager"
RECEIPT = "fetched.json"
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, kw_only=True)
class FetchedReceipt:
    """What a folder was filled with; only one that is `complete`, written last, says that the folder is whole."""

    source: str
    revision: str
    files: tuple[FileDigest, ...]
    complete: bool


def read_ref(storage: Path, revision: str) -> str | None:
    """Give the commit that a branch or tag was at when it was last fetched into a cache, from its `refs/REVISION`."""
    try:
        text = (storage / "refs" / revision).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return text if _COMMIT.fullmatch(text) else None


def write_ref(storage: Path, revision: str, commit: str) -> None:
    """Write where a branch or tag is now, unless that is written already."""
    if commit not in (revision, read_ref(storage, revision)):
        path = storage / "refs" / revision
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, commit)


def read_receipt(folder: Path) -> FetchedReceipt | None:
    """Give what a folder was filled with; None when it was not filled by packager, or not to the end."""
    receipt = _read(folder)
    return receipt if receipt is not None and receipt.complete else None


def known_files(folder: Path) -> tuple[FileDigest, ...]:
    """Give the files of a folder that packager fetched, also where it was killed while it moved them into place."""
    receipt = _read(folder)
    return () if receipt is None else receipt.files


def write_receipt(folder: Path, receipt: FetchedReceipt) -> None:
    """Write what a folder was filled with, or is being filled with."""
    write_durably(folder / PRIVATE / RECEIPT, pretty_json(receipt))


def _read(folder: Path) -> FetchedReceipt | None:
    try:
        data = json.loads((folder / PRIVATE / RECEIPT).read_text(encoding="utf-8"))
        receipt = decode(FetchedReceipt, data, where=RECEIPT)
    except (OSError, ValueError, InputInvalid):
        return None
    names = [PurePosixPath(item.name) for item in receipt.files]
    return None if any(name.is_absolute() or ".." in name.parts for name in names) else receipt
