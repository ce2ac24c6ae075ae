"""One file from a hub to the disk, continued where an earlier run or a broken connection left it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import httpx

from packager.durable import FileDigest, disk_errors
from packager.errors import IntegrityMismatch
from packager.sources.hub_files import Hasher, RemoteFile
from packager.sources.hub_wire import Wire

_CHUNK_BYTES = 1 << 20
_RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")


def download(file: RemoteFile, partial: Path, wire: Wire, *, advanced: Callable[[int], None]) -> FileDigest:
    """Make `partial` hold the whole file, with the bytes that the hub says it has, on the disk.

    Args:
        file: What to fetch.
        partial: Where; what an earlier run left there is continued.
        wire: The hub.
        advanced: Told how many bytes of this file are there.

    Returns:
        The file's digest.

    Raises:
        IntegrityMismatch: The bytes are not the hub's own; they are removed.
        HubFailed: The hub refuses, or the connection kept breaking; what has arrived stays.
        NoSpace: The disk is full; what has arrived stays.
    """
    if file.size_bytes is None:
        partial.unlink(missing_ok=True)  # it may be whole already, and the server would be asked for what is behind it
    continued = partial.exists() and partial.stat().st_size > 0
    try:
        return _Download(file, partial, wire, advanced).run()
    except IntegrityMismatch as error:
        partial.unlink(missing_ok=True)
        if not continued:
            raise
        wire.warn(f"{error.message}; it was begun by an earlier run, so once more from the start")
    try:
        return _Download(file, partial, wire, advanced).run()
    except IntegrityMismatch:
        partial.unlink(missing_ok=True)
        raise


def hash_file(file: RemoteFile, path: Path, *, where: object = None) -> FileDigest:
    """Give the digest of a file that is there already, if it is the one that the hub says.

    Raises:
        IntegrityMismatch: It is another one.
    """
    hasher = Hasher(file)
    with disk_errors(path), path.open("rb") as stream:
        _feed(stream, hasher)
    return hasher.check(where or path)


class _Download:
    def __init__(self, file: RemoteFile, partial: Path, wire: Wire, advanced: Callable[[int], None]) -> None:
        self._file = file
        self._partial = partial
        self._wire = wire
        self._advanced = advanced
        self._hasher = Hasher(file)

    def run(self) -> FileDigest:
        with disk_errors(self._partial), self._partial.open("a+b", buffering=0) as out:
            out.seek(0)
            _feed(out, self._hasher)
            while not self._is_complete(out):
                pass
            os.fsync(out.fileno())
        return self._hasher.check(self._file.path)

    def _is_complete(self, out: BinaryIO) -> bool:
        """Take what one connection gives; True when the file is whole."""
        file, size = self._file, self._file.size_bytes
        if size is not None and self._hasher.size_bytes >= size:
            return True
        try:
            with self._wire.get(file.url, start=self._hasher.size_bytes) as response:
                if not self._continues(response):
                    self._restart(out)
                # Chunks as they arrive: what httpx gathers into larger ones is lost with the connection.
                for chunk in response.iter_raw():
                    _write(out, chunk)
                    self._hasher.update(chunk)
                    self._wire.patience.rewarded()
                    self._advanced(self._hasher.size_bytes)
                    if size is not None and self._hasher.size_bytes > size:
                        return True  # a server that does not stop
        except httpx.TransportError as error:
            self._wire.patience.wait(f"{file.path}: {self._cut(str(error) or type(error).__name__)}")
            return False
        if size is None or self._hasher.size_bytes >= size:
            return True
        self._wire.patience.wait(f"{file.path}: {self._cut('the server ended it early')}")
        return False

    def _continues(self, response: httpx.Response) -> bool:
        """Say whether the body starts where the file on the disk ends: a server may ignore the range."""
        found = _RANGE.match(response.headers.get("content-range", ""))
        start = int(found[1]) if response.status_code == 206 and found else 0
        return start == self._hasher.size_bytes

    def _restart(self, out: BinaryIO) -> None:
        out.truncate(0)
        self._hasher = Hasher(self._file)
        self._advanced(0)

    def _cut(self, cause: str) -> str:
        total = "" if self._file.size_bytes is None else f" of {self._file.size_bytes}"
        return f"the connection broke after {self._hasher.size_bytes}{total} bytes ({cause})"


def _feed(stream: BinaryIO, hasher: Hasher) -> None:
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    while size := stream.readinto(buffer):  # type: ignore[attr-defined]  # typeshed's BinaryIO lacks it
        hasher.update(buffer[:size])


def _write(out: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:  # an unbuffered file may take less than it is given
        view = view[out.write(view) :]
