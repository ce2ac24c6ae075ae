"""One GGUF file being written: staged under another name, digested as it grows, renamed when it is complete and on disk."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from packager.artifacts import Gguf, Quant
from packager.errors import InputInvalid, NoSpace
from packager.formats.gguf import GgmlType, MetadataEntry, header_bytes, padded, tensor_bytes
from packager.weights.journal import FileMark, Hash, Position


class GgufOutput:
    """A GGUF file in the layout that `llama-quantize ... COPY` leaves unchanged.

    Nothing exists under the final name before `finish`; `discard` leaves nothing behind.

    Args:
        path: The final name; bytes go to `path` + `.partial` in the same folder until `finish`.
        quant: What the file holds.
        metadata: Keys in their final order.
        tensors: Name, shape (rows first) and type, in the order in which their data will be written.
        kept: How much of `.partial` is there from an earlier run and the digest of it, where that is continued.

    Raises:
        HeaderDiffers: What is there begins with another header.
    """

    def __init__(
        self,
        path: Path,
        quant: Quant,
        metadata: Iterable[MetadataEntry],
        tensors: Iterable[tuple[str, tuple[int, ...], GgmlType]],
        kept: tuple[FileMark, Hash] | None = None,
    ) -> None:
        self.path = path
        self.quant = quant
        self._tensors = tuple(tensors)
        self._types = {name: kind for name, _, kind in self._tensors}
        header = header_bytes(metadata, self._tensors)
        sizes = [tensor_bytes(shape, kind) for _, shape, kind in self._tensors]
        self.data_bytes = sum(sizes)
        self.size_bytes = len(header) + sum(map(padded, sizes))
        self._partial = partial_path(path)
        self._digest: Hash = hashlib.sha256()
        self._written = 0
        self._finished = False
        with disk_errors(self._partial):
            self._file = self._partial.open("wb" if kept is None else "r+b", buffering=0)
        try:
            if kept is None:
                self.write(header)
            else:
                self._continue(header, *kept)
        except HeaderDiffers:
            self.close()
            raise
        except BaseException:
            self.discard()
            raise

    def type_of(self, name: str) -> GgmlType:
        """Give the type in which a tensor is written here."""
        return self._types[name]

    def data_bytes_before(self, position: Position) -> int:
        """Give how many bytes of tensors come before a position."""
        complete = sum(tensor_bytes(shape, kind) for _, shape, kind in self._tensors[: position.tensor])
        if position.row == 0:
            return complete
        _, shape, kind = self._tensors[position.tensor]
        return complete + tensor_bytes((position.row, shape[-1]), kind)

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes to the file and to its digest.

        Raises:
            NoSpace: The disk is full.
        """
        self._digest.update(data)
        self._written += len(data)
        view = memoryview(data)
        with disk_errors(self._partial):
            while view:
                view = view[self._file.write(view) :]

    def end_tensor(self) -> None:
        """Append the zeros that align the next tensor; the last one is padded as well."""
        self.write(bytes(padded(self._written) - self._written))

    def mark(self) -> FileMark:
        """Give what was written so far; it is on the disk when `sync` has returned."""
        return FileMark(name=self._partial.name, size_bytes=self._written, sha256=self._digest.hexdigest())

    def sync(self) -> None:
        """Return when everything that was written before is on the disk."""
        with disk_errors(self._partial):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Leave what was written where it is, for another run to continue."""
        self._file.close()

    def finish(self) -> Gguf:
        """Flush the file to disk and give it its name."""
        if self._written != self.size_bytes:
            raise InputInvalid(f"{self.path.name}: {self._written} bytes were written of {self.size_bytes}")
        with disk_errors(self._partial):
            os.fsync(self._file.fileno())
            self._file.close()
            self._partial.replace(self.path)
            self._finished = True
        return Gguf(path=self.path, quant=self.quant, sha256=self._digest.hexdigest(), size_bytes=self.size_bytes)

    def discard(self) -> None:
        """Remove what was written, whether it was finished or not."""
        self._file.close()
        self._partial.unlink(missing_ok=True)
        if self._finished:
            self.path.unlink(missing_ok=True)

    def _continue(self, header: bytes, mark: FileMark, digest: Hash) -> None:
        with disk_errors(self._partial):
            if mark.size_bytes < len(header) or self._file.read(len(header)) != header:
                raise HeaderDiffers
            self._file.truncate(mark.size_bytes)
            self._file.seek(mark.size_bytes)
        self._digest, self._written = digest, mark.size_bytes


class HeaderDiffers(Exception):
    """What an earlier run wrote belongs to another file than the one to be written now: the pass begins anew."""


def partial_path(path: Path) -> Path:
    """Give the name a file has until it is complete."""
    return path.with_name(path.name + ".partial")


class disk_errors:  # noqa: N801  # reads as a phrase where it is used
    """Turns a full disk into `NoSpace`, and any other failure to write into `InputInvalid`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        """Nothing to set up."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, OSError):
            return
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "Free some space, or pass another folder with -o."
            raise NoSpace(f"{self._path.parent}: the disk is full", hint=hint) from error
        raise InputInvalid(f"{self._path}: cannot be written ({error.strerror})") from error
