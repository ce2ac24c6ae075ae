"""What a pass has written for certain, so that the next run continues there after a kill or a power cut.

One JSON line for each mark, with its own digest. A line is written after the bytes it speaks of are on the disk; whoever reads
it trusts neither: a damaged line ends the journal, and files are hashed again up to each mark.
"""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from packager.codec import decode, encode
from packager.durable import disk_errors
from packager.errors import InputInvalid

_CHUNK_BYTES = 4 << 20


class Hash(Protocol):
    """A running sha256."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Take more bytes."""
        ...

    def copy(self) -> Hash:
        """Give one that goes on from here."""
        ...

    def hexdigest(self) -> str:
        """Give the digest so far."""
        ...


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where a pass stands: tensors that are complete, in the order in which they are written, and rows of the next one."""

    tensor: int
    row: int


START = Position(tensor=0, row=0)


@dataclass(frozen=True, kw_only=True)
class FileMark:
    """The size and sha256 of the first bytes of a file, all of them on the disk."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Mark:
    """All files of a pass at one position."""

    position: Position
    files: tuple[FileMark, ...]


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What can be continued: the last mark that all files agree with, and the running digest of each up to it."""

    mark: Mark
    hashes: tuple[Hash, ...]


class Journal:
    """The journal of one pass.

    Args:
        path: Made with the first mark.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def exists(self) -> bool:
        """Whether a pass was interrupted here."""
        return self._path.is_file()

    def add(self, mark: Mark) -> None:
        """Append a mark and return when it is on the disk.

        Raises:
            NoSpace: The disk is full.
        """
        body = json.dumps(encode(mark), separators=(",", ":"))
        line = json.dumps({"mark": body, "sha256": _digest(body)}) + "\n"
        with disk_errors(self._path), self._path.open("ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        """Forget everything."""
        with disk_errors(self._path):
            self._path.unlink(missing_ok=True)

    def kept(self, files: tuple[Path, ...]) -> Kept | None:
        """Hash files again and give where they can be continued; None when from the start.

        Args:
            files: The files being written, in the order of the marks.
        """
        marks = [mark for mark in self._marks() if len(mark.files) == len(files)]
        if not marks:
            return None
        with ThreadPoolExecutor(len(files)) as pool:
            lists = [[mark.files[number] for mark in marks] for number in range(len(files))]
            hashed = list(pool.map(_agreeing, files, lists))
        agreed = min(len(hashes) for hashes in hashed)
        if agreed < len(marks):
            self.remove()
            for mark in marks[:agreed]:
                self.add(mark)
        if agreed == 0:
            return None
        return Kept(mark=marks[agreed - 1], hashes=tuple(hashes[agreed - 1] for hashes in hashed))

    def _marks(self) -> list[Mark]:
        marks: list[Mark] = []
        try:
            for line in self._path.read_bytes().splitlines():
                entry = json.loads(line)
                if entry["sha256"] != _digest(entry["mark"]):
                    break
                marks.append(decode(Mark, json.loads(entry["mark"]), where=self._path.name))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, InputInvalid):
            pass
        return marks


def _agreeing(path: Path, marks: list[FileMark]) -> list[Hash]:
    """Give the running digests of a file at its marks, up to the first that is not as it was written."""
    hasher: Hash = hashlib.sha256()
    hashes: list[Hash] = []
    done = 0
    try:
        with path.open("rb", buffering=0) as file:
            for mark in marks:
                while done < mark.size_bytes:
                    data = file.read(min(_CHUNK_BYTES, mark.size_bytes - done))
                    if not data:
                        return hashes
                    hasher.update(data)
                    done += len(data)
                if mark.name != path.name or hasher.hexdigest() != mark.sha256:
                    return hashes
                hashes.append(hasher.copy())
    except OSError:
        pass
    return hashes


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
