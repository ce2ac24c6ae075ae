"""A model that is in a cache already: whether it is whole, and whether its bytes are what was recorded of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from packager.durable import FileDigest
from packager.errors import IntegrityMismatch
from packager.events import Advanced, Emit, Noted
from packager.formats.weight_files import INDEX
from packager.sources.hub_files import RemoteFile, missing_file, small_files, weight_files
from packager.sources.hub_records import read_receipt
from packager.sources.hub_transfer import hash_file
from packager.sources.hub_wire import STAGE

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A model's folder in a cache.

    Attributes:
        folder: The folder.
        revision: The commit that it is of, or what is known of it: a branch's name.
        recorded: Gives what is recorded of one of its files, None when nothing is.
    """

    folder: Path
    revision: str
    recorded: Callable[[Path, str], RemoteFile | None]

    @property
    def missing(self) -> str | None:
        """The name of a file that a build needs and that is not there; None when the snapshot is whole."""
        return missing_file(self.folder)

    def is_at_another_commit(self, commit: str) -> bool:
        """Say whether this is known to be of another commit; what is only known by a branch may be of any."""
        return _COMMIT.fullmatch(self.revision) is not None and self.revision != commit


def nothing_recorded(folder: Path, path: str) -> RemoteFile | None:
    """Give None: nothing is recorded of the files of this folder."""
    return None


def receipt_snapshot(folder: Path) -> Snapshot | None:
    """Give a folder that packager filled, to the end; None when it did not."""
    receipt = read_receipt(folder)
    if receipt is None:
        return None
    known = {
        item.name: RemoteFile(path=item.name, url="", size_bytes=item.size_bytes, sha256=item.sha256)
        for item in receipt.files
    }
    return Snapshot(folder=folder, revision=receipt.revision, recorded=lambda _, path: known.get(path))


def check_snapshot(snapshot: Snapshot, emit: Emit) -> tuple[FileDigest, ...]:
    """Give the digests of what a build reads of a whole snapshot, compared with what is recorded of it.

    Raises:
        IntegrityMismatch: A file has other bytes than those that were downloaded.
    """
    folder, digests, unknown = snapshot.folder, [], []
    names = needed_names(folder)
    for number, name in enumerate(names):
        emit(Advanced(stage=STAGE, done=number, total=len(names), unit="file", detail=name))
        recorded = snapshot.recorded(folder, name)
        if recorded is None:
            unknown.append(name)
        file = recorded or RemoteFile(path=name, url="", size_bytes=None)
        try:
            digests.append(hash_file(file, folder / name))
        except IntegrityMismatch as error:
            hint = "Run it without --offline and HF_HUB_OFFLINE: what is damaged is fetched again."
            raise IntegrityMismatch(error.message, hint=hint) from None
    if unknown:
        text = f"not checked: of {len(unknown)} of {len(names)} files in {folder} no digest is recorded"
        emit(Noted(stage=STAGE, text=text, warning=True))
    return tuple(digests)


def equal_digests(snapshot: Snapshot, files: Iterable[RemoteFile]) -> tuple[FileDigest, ...] | None:
    """Give the digests of a snapshot that holds exactly what a build would fetch of a listing; None where it differs."""
    listed = {file.path: file for file in files}
    names = () if snapshot.missing else needed_names(snapshot.folder)
    if (
        not names
        or not set(names) <= set(listed)
        or not {file.path for file in small_files(listed.values())} <= set(names)
    ):
        return None
    sizes = {name: (snapshot.folder / name).stat().st_size for name in names}
    if any(listed[name].size_bytes not in (None, size) for name, size in sizes.items()):
        return None
    try:
        return tuple(hash_file(listed[name], snapshot.folder / name) for name in names)
    except IntegrityMismatch:
        return None


def needed_names(folder: Path) -> tuple[str, ...]:
    """Give the names of the files of a folder that a build reads, sorted."""
    paths = [path for pattern in ("*", "additional_chat_templates/*") for path in folder.glob(pattern)]
    names = sorted(path.relative_to(folder).as_posix() for path in paths if path.is_file())
    files = [RemoteFile(path=name, url="", size_bytes=None) for name in names]
    index = folder / INDEX
    weights = weight_files(files, index if index.is_file() else None, where=str(folder))
    return tuple(sorted({file.path for file in (*small_files(files), *weights)}))
