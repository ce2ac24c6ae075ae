"""Where fetched files go, so that nothing half-written is ever taken for whole.

Bytes arrive under a name of their own, are compared with the hub's digests, and only then get their places: a folder's
all at once, `config.json` last; a file of a Hugging Face cache under its digest, the model's folder of links after all of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

from packager.durable import FileDigest, disk_errors, sync_folder
from packager.errors import InputInvalid, IntegrityMismatch
from packager.events import Emit, Noted
from packager.sources.hub_files import CONFIGS, RemoteFile
from packager.sources.hub_records import PRIVATE, FetchedReceipt, known_files, write_receipt
from packager.sources.hub_transfer import hash_file
from packager.sources.hub_wire import STAGE

_PARTIAL = ".packager.incomplete"


class Place(Protocol):
    """A folder on the disk that one model at one commit is fetched into."""

    @property
    def folder(self) -> Path:
        """The model's folder, whole once it is published."""

    def have(self, file: RemoteFile, emit: Emit) -> FileDigest | None:
        """Give the digest of a file that is there with the hub's bytes; None when it is to be fetched."""

    def path(self, file: RemoteFile) -> Path:
        """Give the path of a file that is there."""

    def partial(self, file: RemoteFile) -> Path:
        """Give the path that a file's bytes arrive under."""

    def keep(self, file: RemoteFile) -> None:
        """Give a file that has arrived whole its place."""

    def publish(self, files: tuple[RemoteFile, ...], digests: tuple[FileDigest, ...]) -> None:
        """Make the model's folder: the only point from which it counts."""

    def locked(self, emit: Emit) -> contextlib.AbstractContextManager[None]:
        """Hold the place against every other fetch while the block runs."""


class BlobPlace:
    """A model in a Hugging Face cache: bytes in `blobs/DIGEST`, links to them in `snapshots/COMMIT`.

    Source:
        huggingface_hub, "Understand caching" (the cache's layout is part of its documentation).
    """

    def __init__(self, storage: Path, *, commit: str, lock: Path) -> None:
        self._storage = storage
        self._lock = lock
        self.folder = storage / "snapshots" / commit

    def have(self, file: RemoteFile, emit: Emit) -> FileDigest | None:
        """Give the digest of a blob; one that is damaged is fetched again, which is said."""
        path = self.path(file)
        if not path.is_file():
            return None
        try:
            return hash_file(file, path, where=f"{file.path} in the cache")
        except IntegrityMismatch as error:
            emit(Noted(stage=STAGE, text=f"{error.message}; fetching it again", warning=True))
            return None

    def path(self, file: RemoteFile) -> Path:
        """Give the blob."""
        return self._storage / "blobs" / file.key

    def partial(self, file: RemoteFile) -> Path:
        """Give the name beside the blob that huggingface_hub, too, uses for what is not whole."""
        return self._storage / "blobs" / (file.key + _PARTIAL)

    def keep(self, file: RemoteFile) -> None:
        """Rename a whole file to its digest."""
        _move(self.partial(file), self.path(file))

    def publish(self, files: tuple[RemoteFile, ...], digests: tuple[FileDigest, ...]) -> None:
        """Link every file, and drop what is no longer needed of earlier attempts."""
        with disk_errors(self.folder):
            for file in files:
                link = self.folder / file.path
                link.parent.mkdir(parents=True, exist_ok=True)
                target = Path(os.path.relpath(self.path(file), link.parent))
                if not (link.is_symlink() and link.readlink() == target):
                    fresh = link.with_name(link.name + _PARTIAL)
                    fresh.unlink(missing_ok=True)
                    fresh.symlink_to(target)
                    fresh.replace(link)
            sync_folder(self.folder)
            for stale in (self._storage / "blobs").glob("*" + _PARTIAL):
                stale.unlink()

    @contextlib.contextmanager
    def locked(self, emit: Emit) -> Iterator[None]:
        """Hold the model in this cache."""
        with _held(self._lock, emit):
            _make(self._storage / "blobs")
            yield


class FolderPlace:
    """A plain folder, with what packager has to remember in `.packager/`. A file of anybody else is never replaced."""

    def __init__(self, folder: Path, *, source: str, commit: str) -> None:
        self.folder = folder
        self._source = source
        self._commit = commit
        self._private = folder / PRIVATE
        self._staging = self._private / "fetch"

    def have(self, file: RemoteFile, emit: Emit) -> FileDigest | None:
        """Give the digest of a file that an earlier run brought, or that is in its place already.

        Raises:
            InputInvalid: Another file, which packager did not fetch, is in its place.
        """
        for path in (self._staged(file), self.folder / file.path):
            if path.is_file():
                with contextlib.suppress(IntegrityMismatch):
                    return hash_file(file, path)
                self._staged(file).unlink(missing_ok=True)  # nothing damaged may be moved into place later
        self._refuse_foreign(self.folder / file.path, file.path)
        return None

    def path(self, file: RemoteFile) -> Path:
        """Give the staged file, or the one in its place."""
        staged = self._staged(file)
        return staged if staged.exists() else self.folder / file.path

    def partial(self, file: RemoteFile) -> Path:
        """Give a name in the private folder."""
        staged = self._staged(file)
        return staged.with_name(staged.name + _PARTIAL)

    def keep(self, file: RemoteFile) -> None:
        """Stage a whole file."""
        _move(self.partial(file), self._staged(file))

    def publish(self, files: tuple[RemoteFile, ...], digests: tuple[FileDigest, ...]) -> None:
        """Move every staged file into place, the configuration last; files of an earlier commit go."""
        before = known_files(self.folder)
        names = {file.path for file in files}
        receipt = FetchedReceipt(source=self._source, revision=self._commit, files=digests, complete=True)
        gone = tuple(item for item in before if item.name not in names)
        moving = FetchedReceipt(source=self._source, revision="", files=digests + gone, complete=False)
        write_receipt(self.folder, moving)  # after a crash, what was being moved is ours
        with disk_errors(self.folder):
            for item in gone:
                (self.folder / item.name).unlink(missing_ok=True)
            for file in sorted(files, key=lambda file: (file.path in CONFIGS, file.path)):
                if self._staged(file).exists():
                    target = self.folder / file.path
                    target.parent.mkdir(parents=True, exist_ok=True)
                    self._staged(file).replace(target)
            sync_folder(self.folder)
        write_receipt(self.folder, receipt)
        shutil.rmtree(self._staging, ignore_errors=True)

    @contextlib.contextmanager
    def locked(self, emit: Emit) -> Iterator[None]:
        """Hold the folder, as a build in it would."""
        with _held(self._private / "lock", emit):
            _make(self._staging)
            yield

    def _staged(self, file: RemoteFile) -> Path:
        return self._staging / f"{hashlib.sha256(file.path.encode()).hexdigest()[:16]}-{file.key}"

    def _refuse_foreign(self, target: Path, name: str) -> None:
        exists = target.exists() or target.is_symlink()
        if exists and name not in {item.name for item in known_files(self.folder)}:
            raise InputInvalid(
                f"{target}: exists, and packager did not fetch it",
                hint="Move it away, or choose another folder with -o DIR.",
            )


@contextlib.contextmanager
def _held(path: Path, emit: Emit) -> Iterator[None]:
    _make(path.parent)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        emit(Noted(stage=STAGE, text="another packager is writing there; waiting for it", warning=True))
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _make(folder: Path) -> None:
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)


def _move(partial: Path, target: Path) -> None:
    with disk_errors(target):
        partial.replace(target)
        sync_folder(target.parent)
