"""Models from the hubs, as folders: downloaded, compared with the hub's own digests, or taken from a cache.

>>> fetched = fetch("hf:Qwen/Qwen2.5-0.5B-Instruct")
>>> fetched.title
'hf:Qwen/Qwen2.5-0.5B-Instruct at 7ae557604adf67be50417f59c2c2f167def9a775'
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from packager.durable import FileDigest, disk_errors, sync_file
from packager.errors import HubFailed, IntegrityMismatch, NoSpace
from packager.events import Advanced, Emit, Noted, StageFinished, StageStarted, silent
from packager.formats.weight_files import INDEX
from packager.sources.hub_files import Listing, RemoteFile, check_paths, small_files, weight_files
from packager.sources.hub_kind import Hub
from packager.sources.hub_name import HubKind, HubName, is_hub_name
from packager.sources.hub_place import FolderPlace, Place
from packager.sources.hub_records import read_receipt
from packager.sources.hub_snapshot import Snapshot, check_snapshot, equal_digests, receipt_snapshot
from packager.sources.hub_transfer import download, hash_file
from packager.sources.hub_wire import STAGE, Unreachable, Wire
from packager.sources.huggingface import HuggingFace
from packager.sources.modelscope import ModelScope

__all__ = ["Fetched", "fetch", "is_hub_name"]

Bring = Callable[[RemoteFile, Path, Callable[[int], None]], FileDigest]


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A model on the disk, whole and checked.

    Attributes:
        folder: The folder with its files.
        files: What a build reads of them, with their digests, sorted by name.
        revision: The commit that all of them are of.
        source: The name without a revision: `hf:ORG/NAME`.
    """

    folder: Path
    files: tuple[FileDigest, ...]
    revision: str
    source: str

    @property
    def title(self) -> str:
        """Where the model is from, in words for plans and reports."""
        return f"{self.source} at {self.revision}"

    @property
    def size_bytes(self) -> int:
        """The size of all files."""
        return sum(file.size_bytes for file in self.files)


def fetch(
    text: str,
    *,
    emit: Emit = silent,
    output: Path | None = None,
    revision: str | None = None,
    offline: bool = False,
) -> Fetched:
    """Give a folder with everything that a build reads of a model on a hub, every byte compared with the hub's digests.

    Args:
        text: `hf:ORG/NAME[@REVISION]`, `ms:ORG/NAME[@REVISION]`, or `ORG/NAME[@REVISION]` for hf.
        emit: Progress under the stage `fetch`.
        output: A folder for the files; by default the hub's own cache, as its other tools use it.
        revision: The revision where it is given apart from the name.
        offline: Ask nobody; take what is in the cache, or in `output`.

    Raises:
        Usage: `text` is no name on a hub.
        HubFailed: The hub cannot be reached, refuses, or does not have the model; or offline, the cache does not.
        IntegrityMismatch: Bytes are not the hub's own.
        UnsafeInput: The hub lists a path outside the folder, or pickles only.
        Unsupported: There are no safetensors weights.
        NoSpace: The disk is too small, or full.
    """
    name = HubName.parse(text, revision=revision)
    hub: Hub = HuggingFace() if name.kind is HubKind.HUGGING_FACE else ModelScope()
    started = time.monotonic()
    job = _Job(name, hub, output, emit)
    emit(StageStarted(stage=STAGE, title=f"{name} from {hub.endpoint}"))
    fetched = job.from_cache(_not_there(name)) if offline or hub.offline else job.from_hub()
    emit(StageFinished(stage=STAGE, seconds=time.monotonic() - started, reused=not job.brought))
    return fetched


class _Job:
    """One fetch."""

    def __init__(self, name: HubName, hub: Hub, output: Path | None, emit: Emit) -> None:
        self._name = name
        self._hub = hub
        self._output = output
        self._emit = emit
        self._done = self._total = 0
        self.brought = False

    def from_hub(self) -> Fetched:
        """Ask the hub, and fetch what is not there; a hub that nobody answers for is replaced by a whole copy in the cache."""
        if self._name.commit and any(snapshot.missing is None for snapshot in self._hub.snapshots(self._name)):
            with contextlib.suppress(IntegrityMismatch):  # what is damaged is fetched again
                return self.from_cache(_not_there(self._name))  # a commit never moves: nothing to ask
        with self._hub.wire(self._name, self._emit) as wire:
            try:
                listing = self._hub.listing(self._name, wire)
            except Unreachable as error:
                fetched = self.from_cache(error)
                self._emit(Noted(stage=STAGE, text=f"{error.message}: used {fetched.title} of the cache", warning=True))
                return fetched
            check_paths(listing.files, where=str(self._name))
            fetched = self._equal(listing) or self._fill(self._place(listing.commit), listing, self._bringer(wire))
        if self._output is None:
            self._hub.remember(self._name, listing.commit)
        return fetched

    def from_cache(self, failure: HubFailed) -> Fetched:
        """Take what is on the disk, or raise `failure`."""
        if self._output is not None and (held := self._held(self._output)) is not None:
            return self._fetched(held.folder, held.revision, check_snapshot(held, self._emit))
        snapshots = self._hub.snapshots(self._name)
        whole = next((snapshot for snapshot in snapshots if snapshot.missing is None), None)
        if whole is None:
            there = next((one for one in snapshots if one.folder.is_dir()), None)
            if there is None:
                raise failure
            raise HubFailed(f"{failure.message}; {there.folder} lacks {there.missing}", hint=failure.hint)
        digests = check_snapshot(whole, self._emit)
        if self._output is None:
            return self._fetched(whole.folder, whole.revision, digests)
        files = [RemoteFile(path=d.name, url="", size_bytes=d.size_bytes, sha256=d.sha256) for d in digests]
        listing = Listing(commit=whole.revision, files=tuple(files))
        return self._fill(
            self._place(whole.revision),
            listing,
            lambda file, path, _: _copied(whole.folder / file.path, file, path),
        )

    def _place(self, commit: str) -> Place:
        if self._output is None:
            return self._hub.place(self._name, commit)
        return FolderPlace(self._output, source=self._name.source, commit=commit)

    def _held(self, folder: Path) -> Snapshot | None:
        """Give the output folder as it is, where an earlier run fetched the same model into it."""
        receipt, snapshot = read_receipt(folder), receipt_snapshot(folder)
        if receipt is None or snapshot is None or snapshot.missing or receipt.source != self._name.source:
            return None
        return snapshot if self._name.revision in (None, snapshot.revision) else None

    def _equal(self, listing: Listing) -> Fetched | None:
        """Give a folder of the cache that is what the hub lists, as it is."""
        if self._output is None:
            for snapshot in self._hub.snapshots(self._name):
                if snapshot.is_at_another_commit(listing.commit):
                    continue
                if digests := equal_digests(snapshot, listing.files):
                    return self._fetched(snapshot.folder, listing.commit, digests)
        return None

    def _bringer(self, wire: Wire) -> Bring:
        def bring(file: RemoteFile, path: Path, advanced: Callable[[int], None]) -> FileDigest:
            copy = self._hub.copy_of(self._name, file)
            if copy is not None and copy.parent != path.parent:  # in the cache itself, the file was found wanting
                try:
                    return _copied(copy, file, path)
                except IntegrityMismatch:
                    path.unlink(missing_ok=True)
            return download(file, path, wire, advanced=advanced)

        return bring

    def _fill(self, place: Place, listing: Listing, bring: Bring) -> Fetched:
        with place.locked(self._emit):
            small = small_files(listing.files)
            self._total = _size(small)
            digests = self._take(place, small, bring)
            index = next((file for file in small if file.path == INDEX), None)
            weights = weight_files(listing.files, place.path(index) if index else None, where=str(self._name))
            self._total += _size(weights)
            _check_space(place, weights)
            digests += self._take(place, weights, bring)
            self._say_unchecked((*small, *weights))
            place.publish((*small, *weights), tuple(digests))
        return self._fetched(place.folder, listing.commit, tuple(digests))

    def _take(self, place: Place, files: tuple[RemoteFile, ...], bring: Bring) -> list[FileDigest]:
        digests = []
        for file in files:
            digest = place.have(file, self._emit)
            if digest is None:
                self.brought = True
                with disk_errors(place.partial(file)):
                    digest = bring(file, place.partial(file), partial(self._advance, file.path))
                place.keep(file)
            self._done += digest.size_bytes
            self._advance(file.path, 0)
            digests.append(digest)
        return digests

    def _say_unchecked(self, files: tuple[RemoteFile, ...]) -> None:
        unknown = [file.path for file in files if file.sha256 is None and file.git_sha1 is None]
        if unknown:
            text = f"not checked: the hub gives no digest of {len(unknown)} of {len(files)} files, such as {unknown[0]}"
            self._emit(Noted(stage=STAGE, text=text, warning=True))

    def _advance(self, detail: str, size_bytes: int) -> None:
        done = self._done + size_bytes
        self._emit(Advanced(stage=STAGE, done=done, total=max(done, self._total), unit="B", detail=detail))

    def _fetched(self, folder: Path, revision: str, digests: tuple[FileDigest, ...]) -> Fetched:
        files = tuple(sorted(digests, key=lambda digest: digest.name))
        return Fetched(folder=folder, files=files, revision=revision, source=self._name.source)


def _copied(source: Path, file: RemoteFile, path: Path) -> FileDigest:
    shutil.copyfile(source, path)
    sync_file(path)
    return hash_file(file, path, where=source)


def _check_space(place: Place, files: tuple[RemoteFile, ...]) -> None:
    missing = [file for file in files if not place.path(file).is_file()]
    there = sum(place.partial(file).stat().st_size for file in missing if place.partial(file).is_file())
    needed, folder = _size(missing) - there, place.partial(files[0]).parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise NoSpace(
            f"{folder}: the weights need {needed / 1e9:.2f} GB, the disk has {free / 1e9:.2f} GB free",
            hint="Choose another disk: -o DIR, HF_HOME or MODELSCOPE_CACHE.",
        )


def _size(files: tuple[RemoteFile, ...] | list[RemoteFile]) -> int:
    return sum(file.size_bytes or 0 for file in files)


def _not_there(name: HubName) -> HubFailed:
    text = f"{name} is not in the cache, and nobody may be asked (--offline, or HF_HUB_OFFLINE)"
    return HubFailed(text, hint=f"Run packager fetch {name} with a network first.")
