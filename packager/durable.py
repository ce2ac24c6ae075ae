"""Files that are whole or absent: hashing, writing through to the disk, and what disk errors mean.

The write discipline is stage on the same file system, write, flush, fsync the file, rename, fsync the folder.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packager.errors import InputInvalid, NoSpace, PackagerError
from packager.events import Advanced, Emit, silent

_CHUNK_BYTES = 4 << 20
_REPORT_BYTES = 64 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)


# Where in a build folder what a killed run had written is kept, for the next one to continue.
UNFINISHED = ".packager/unfinished"


@dataclass(frozen=True, kw_only=True)
class FileDigest:
    """What a file held: a name (never an absolute path), its size, and the sha256 of its bytes."""

    name: str
    size_bytes: int
    sha256: str


def sha256_file(path: Path, *, emit: Emit = silent, stage: str = "check") -> str:
    """Give the sha256 of a file, 64 hex digits, reading it in chunks.

    Args:
        path: A regular file.
        emit: Gets the bytes read so far, every 64 MiB.
        stage: The stage to report them under.

    Raises:
        InputInvalid: The file is missing, unreadable, no regular file, or changes while it is read.
    """
    hasher = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    done = reported = 0
    with disk_errors(path), path.open("rb", buffering=0) as file:
        before = os.fstat(file.fileno())
        if not stat.S_ISREG(before.st_mode):
            raise InputInvalid(f"{path}: not a regular file", hint="Check the path.")
        while size := file.readinto(buffer):
            hasher.update(buffer[:size])
            done += size
            if done - reported >= _REPORT_BYTES:
                reported = done
                emit(Advanced(stage=stage, done=done, total=before.st_size, unit="B", detail=path.name))
        after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or done != after.st_size:
        raise InputInvalid(f"{path}: changed while it was read", hint="Wait until it is complete, then run this again.")
    return hasher.hexdigest()


def write_durably(path: Path, text: str) -> None:
    """Make `path` hold exactly `text`, in UTF-8: after a crash it holds either that or what it held before.

    Raises:
        NoSpace: The disk is full.
        InputInvalid: The folder cannot be written.
    """
    staged = path.with_name(path.name + ".partial")
    with disk_errors(path):
        with staged.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
        sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Return when the bytes of a file that is already written are on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Return when the names in a folder are on the disk; does nothing where folders cannot be opened (Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into one of ours, named after its own file or else after `path`."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, path) from error


def is_disk_error(error: OSError) -> bool:
    """Whether an OSError is about a disk, not about a socket, a process or a program's own mistake."""
    return error.errno in (*_FULL, *_DENIED, errno.EIO, errno.EMFILE, errno.ENFILE)


def disk_error(error: OSError, path: Path) -> PackagerError:
    """Give the error a user sees for an OSError: NoSpace for a full disk, InputInvalid for everything else."""
    where = error.filename if isinstance(error.filename, str) else path
    cause = error.strerror or str(error)
    if error.errno in _FULL:
        return NoSpace(f"{where}: {cause}", hint="Free some space, then run the same command again; it continues.")
    if error.errno in _DENIED:
        return InputInvalid(f"{where}: {cause}", hint="Choose a folder you may write, for example with -o DIR.")
    return InputInvalid(f"{where}: {cause}", hint="Check the path and the disk, then run the same command again.")
