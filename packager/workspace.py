"""A build folder that can be killed at any moment: locks, receipts, and stages that are done once.

Layout below `DIR/.packager/`: `lock`, `staging/` (empty between runs), `unfinished/` (what a killed run had written of a stage
that continues), `receipts/STAGE.json`, `digests.json`. A receipt is the only proof that a stage finished; that a file exists
proves nothing.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TypeVar

from filelock import FileLock, Timeout

from packager.codec import canonical_json, decode, digest, encode, map_paths
from packager.durable import (
    UNFINISHED,
    FileDigest,
    disk_error,
    disk_errors,
    is_disk_error,
    sha256_file,
    sync_file,
    sync_folder,
)
from packager.errors import InputInvalid, Locked
from packager.events import Emit, Noted, StageFinished, StageStarted, silent
from packager.formats.model_files import model_files
from packager.receipts import DigestBook, Receipt, ReceiptBox

__all__ = ["FileDigest", "Workspace", "model_files", "sha256_file"]

T = TypeVar("T")


class Workspace:
    """One build folder, held by one process while the `with` block runs.

    Args:
        folder: The build folder; made if it is missing.
        emit: Progress of the stages.

    Raises:
        Locked: On entry, another process holds the folder.
        InputInvalid: On entry, the folder cannot be made or written.
    """

    def __init__(self, folder: Path, *, emit: Emit = silent) -> None:
        self.folder = folder
        self._emit = emit
        self._private = folder / ".packager"
        self._staging = self._private / "staging"
        self._unfinished = folder / UNFINISHED
        self._places: dict[str, Path] = {}
        self._receipts = ReceiptBox(self._private / "receipts")
        self._lock = FileLock(self._private / "lock", timeout=0)

    def __enter__(self) -> Workspace:
        with disk_errors(self.folder):
            self._private.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire()
            except Timeout:
                raise Locked(
                    f"{self.folder}: another packager is writing there",
                    hint="Wait until it has ended, or choose another folder with -o DIR.",
                ) from None
        try:
            self._clear()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._clear()
            if error is None:
                _remove(self._unfinished)
        finally:
            self._lock.release()

    def once(
        self,
        stage: str,
        *,
        key: object,
        job: Callable[[Path], T],
        kind: type[T],
        title: str,
        outputs: tuple[str, ...] = (),
        digests: Callable[[T], tuple[FileDigest, ...]] | None = None,
        continues: bool = False,
    ) -> T:
        """Do a stage, or give what it gave before if nothing it depends on has changed.

        The job gets an empty staging folder on the build folder's own file system. Every file it leaves there is an output,
        flushed, renamed into the build folder under the same relative name, and recorded in the stage's receipt. A stage is
        reused when its receipt has the same key and every output still has its recorded size and sha256.

        Args:
            stage: The stage's verb; names the receipt.
            key: A frozen dataclass of everything the outputs depend on: input digests, parameters, tool versions.
            job: Does the work. Paths in its result lie in the staging folder or in the build folder.
            kind: The type of the result.
            title: One line for people.
            outputs: Names that are known beforehand, so that a foreign file in their place is found before the work.
            digests: Gives the digests that the job took while it wrote; files it does not name are read again.
            continues: Whether the job goes on with what it finds in its folder: what a run with the same key left there
                when it was killed or interrupted. After any other error nothing is left.

        Returns:
            The job's result, its paths inside the build folder wherever that is now.

        Raises:
            InputInvalid: A file that packager did not write is in an output's place, or the disk cannot be written.
            NoSpace: The disk is full.
        """
        started = time.monotonic()
        self._emit(StageStarted(stage=stage, title=title))
        wanted = _key(stage, key)
        before = self._receipts.load(stage)
        reused = self._reuse(kind, before, wanted)
        if reused is not None:
            self._emit(StageFinished(stage=stage, seconds=time.monotonic() - started, reused=True))
            return reused[0]
        for name in outputs:
            self._refuse_foreign(name, sha256=None)
        place = self._unfinished / f"{stage}-{wanted[:16]}" if continues else self._staging / stage
        self._places[stage] = self._prepared(place)
        receipt = self._work(stage, wanted, job, before, digests)
        value = self._restore(kind, receipt)
        self._publish(receipt)
        self._emit(StageFinished(stage=stage, seconds=time.monotonic() - started))
        return value

    def recorded(self, stage: str, kind: type[T], *, key: object) -> T | None:
        """Give what a stage gave when it last finished here with this key; None when it would be done again."""
        receipt = self._receipts.load(stage)
        if receipt is None or receipt.key != _key(stage, key):
            return None
        try:
            return self._restore(kind, receipt)
        except InputInvalid:
            return None

    def digest_inputs(self, files: tuple[Path, ...], *, stage: str = "inputs") -> tuple[FileDigest, ...]:
        """Give the digest of every file, in the given order, named without folders so that a key survives a move.

        A file whose size, times and inode are those of the last time is not read again.

        Raises:
            InputInvalid: A file is missing, unreadable, or changes while it is read.
        """
        book = DigestBook(self._private / "digests.json")
        digests = tuple(book.digest(path, emit=self._emit, stage=stage) for path in files)
        book.save()
        return digests

    def _reuse(self, kind: type[T], receipt: Receipt | None, key: str) -> tuple[T] | None:
        """Give the recorded result, in a tuple because it may itself be None, if it still counts."""
        if receipt is None or receipt.key != key or not self._is_intact(receipt):
            return None
        self._receipts.settle(receipt)
        try:
            return (self._restore(kind, receipt),)
        except InputInvalid:
            self._emit(Noted(stage=receipt.stage, text="its receipt is from another version; doing it again"))
            return None

    def _work(
        self,
        stage: str,
        key: str,
        job: Callable[[Path], T],
        before: Receipt | None,
        digests: Callable[[T], tuple[FileDigest, ...]] | None,
    ) -> Receipt:
        """Run the job and give its receipt, which does not count until it is published."""
        staging = self._places[stage]
        try:
            result = job(staging)
        except KeyboardInterrupt:
            raise
        except OSError as error:
            _remove(staging)
            if not is_disk_error(error):
                raise
            raise disk_error(error, self.folder) from error
        except BaseException:
            _remove(staging)
            raise
        outputs = self._collect(stage, staging, () if digests is None else digests(result))
        replaced = {output.name for output in outputs}
        old = () if before is None else before.outputs + before.earlier
        earlier = tuple(item for item in old if item.name not in replaced and (self.folder / item.name).is_file())
        for item in earlier:
            text = f"{item.name} is from an earlier run with other settings and is left as it is"
            self._emit(Noted(stage=stage, text=text, warning=True))
        relative = map_paths(result, lambda path: self._relative(stage, path))
        return Receipt(stage=stage, key=key, outputs=outputs, earlier=earlier, result=encode(relative))

    def _prepared(self, place: Path) -> Path:
        """Make a folder for a job's files; one that continues keeps what is in it, and nothing else is kept beside it."""
        self._clear()
        with disk_errors(place):
            if place.is_relative_to(self._unfinished) and self._unfinished.is_dir():
                for other in self._unfinished.iterdir():
                    if other != place:
                        _remove(other)
            place.mkdir(parents=True, exist_ok=True)
        return place

    def _collect(self, stage: str, staging: Path, taken: tuple[FileDigest, ...]) -> tuple[FileDigest, ...]:
        known = {(item.name, item.size_bytes): item.sha256 for item in taken}
        found = []
        for path in sorted(staging.rglob("*")):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise RuntimeError(f"stage {stage} left {path.name}, which is no regular file")
            if path.is_file():
                with disk_errors(path):
                    sync_file(path)
                    size_bytes = path.stat().st_size
                name = path.relative_to(staging).as_posix()
                sha256 = known.get((name, size_bytes)) or sha256_file(path, emit=self._emit, stage=stage)
                found.append(FileDigest(name=name, size_bytes=size_bytes, sha256=sha256))
        return tuple(found)

    def _publish(self, receipt: Receipt) -> None:
        for output in receipt.outputs:
            self._refuse_foreign(output.name, sha256=output.sha256)
        self._receipts.intend(receipt.stage, receipt.outputs)
        folders = {self.folder}
        with disk_errors(self.folder):
            for output in receipt.outputs:
                target = self.folder / output.name
                target.parent.mkdir(parents=True, exist_ok=True)
                (self._places[receipt.stage] / output.name).replace(target)
                folders.update(parent for parent in target.parents if parent.is_relative_to(self.folder))
            for folder in sorted(folders, key=lambda path: len(path.parts), reverse=True):
                sync_folder(folder)
        self._receipts.save(receipt)
        self._clear()
        _remove(self._places[receipt.stage])

    def _refuse_foreign(self, name: str, *, sha256: str | None) -> None:
        """Refuse to replace a file that no receipt, and no intent of a killed run, knows; equal bytes are no loss."""
        target = self.folder / name
        if not (target.exists() or target.is_symlink()) or self._receipts.knows(name):
            return
        if target.is_file() and sha256_file(target) in (sha256, *self._receipts.intended(name)):
            return
        raise InputInvalid(
            f"{target}: exists, and packager did not write it",
            hint="Move it away, or choose another folder with -o DIR.",
        )

    def _is_intact(self, receipt: Receipt) -> bool:
        for output in receipt.outputs:
            path = self.folder / output.name
            if path.is_symlink() or not path.is_file():
                self._emit(Noted(stage=receipt.stage, text=f"{output.name} is missing; making it again"))
                return False
            same_size = path.stat().st_size == output.size_bytes
            if not same_size or sha256_file(path, emit=self._emit, stage=receipt.stage) != output.sha256:
                text = f"{output.name} is not as it was written; making it again"
                self._emit(Noted(stage=receipt.stage, text=text, warning=True))
                return False
        return True

    def _restore(self, kind: type[T], receipt: Receipt) -> T:
        value = decode(kind, receipt.result, where=f"receipt of {receipt.stage}")
        return map_paths(value, self._inside)

    def _relative(self, stage: str, path: Path) -> Path:
        for root in (self._places[stage], self.folder):
            if path.is_relative_to(root):
                return Path(path.relative_to(root).as_posix())
        raise RuntimeError(f"stage {stage} gave {path}, which is outside of its folders")

    def _inside(self, path: Path) -> Path:
        relative = PurePosixPath(path.as_posix())
        if relative.is_absolute() or ".." in relative.parts:
            raise InputInvalid(f"{path}: a receipt's path that leaves the folder", hint="Remove the receipt.")
        return self.folder / relative

    def _clear(self) -> None:
        with disk_errors(self._staging):
            _remove(self._staging)
            for path in (*self._private.glob("*.partial"), *self._private.glob("receipts/*.partial")):
                path.unlink()


def _remove(folder: Path) -> None:
    with disk_errors(folder):
        if folder.exists():
            shutil.rmtree(folder)


def _key(stage: str, key: object) -> str:
    return digest((stage, canonical_json(key)))
