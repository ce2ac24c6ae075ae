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


class GgufOutput:
    """A GGUF file in the layout that `llama-quantize ... COPY` leaves unchanged.

    Nothing exists under the final name before `finish`; `discard` leaves nothing behind.

    Args:
        path: The final name; bytes go to `path` + `.partial` in the same folder until `finish`.
        quant: What the file holds.
        metadata: Keys in their final order.
        tensors: Name, shape (rows first) and type, in the order in which their data will be written.
    """

    def __init__(
        self,
        path: Path,
        quant: Quant,
        metadata: Iterable[MetadataEntry],
        tensors: Iterable[tuple[str, tuple[int, ...], GgmlType]],
    ) -> None:
        self.path = path
        self.quant = quant
        listed = tuple(tensors)
        self._types = {name: kind for name, _, kind in listed}
        header = header_bytes(metadata, listed)
        self.data_bytes = sum(tensor_bytes(shape, kind) for _, shape, kind in listed)
        self.size_bytes = len(header) + sum(padded(tensor_bytes(shape, kind)) for _, shape, kind in listed)
        self._partial = path.with_name(path.name + ".partial")
        self._digest = hashlib.sha256()
        self._written = 0
        self._finished = False
        with disk_errors(self._partial):
            self._file = self._partial.open("wb", buffering=0)
        try:
            self.write(header)
        except BaseException:
            self.discard()
            raise

    def type_of(self, name: str) -> GgmlType:
        """Give the type in which a tensor is written here."""
        return self._types[name]

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
