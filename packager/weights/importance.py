"""An importance matrix: how large the activations are that each column of a weight is multiplied with.

For every tensor it has the mean square of what comes in at each column, by which llama.cpp's kernels weigh their rounding
errors. Two formats are read, the GGUF one (`general.type` is `imatrix`) and the older `.dat`, both as `llama-quantize` does:
sums are divided by their counts in float32, and an expert that no token went to counts as 1 everywhere.

Source:
    llama.cpp `common/imatrix-loader.cpp`, `tools/quantize/quantize.cpp` (`load_imatrix`), `tools/imatrix/imatrix.cpp`
    (`save_imatrix`, `save_imatrix_legacy`), as vendored by llama-cpp-python 0.3.36.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from packager.durable import disk_errors
from packager.errors import InputInvalid
from packager.formats.gguf import (
    MAGIC,
    GgmlType,
    GgufArray,
    GgufHeader,
    GgufTensor,
    MetadataEntry,
    ValueType,
    read_gguf,
)

_SUMS, _COUNTS = ".in_sum2", ".counts"
_KEYS = ("imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size")
_TEXT_BYTES = 127  # what llama-quantize keeps of a name
_MAX_NAME_BYTES = 255
_HINT = "Make it with llama.cpp's llama-imatrix, or let --calibrate DATA.jsonl compute it."


@dataclass(frozen=True, kw_only=True)
class RowImportance:
    """The importance of a tensor's columns: `values` of shape `(matrices, columns)`, float32, one matrix for `rows` rows."""

    values: torch.Tensor
    rows: int


@dataclass(frozen=True, kw_only=True)
class Importance:
    """A matrix as read: `values[name]` is flat, float32, the columns of one expert after the other.

    Attributes:
        file: Where it was read from.
        values: Mean squares by the tensor's GGUF name.
        datasets: What it was computed on, as its file says.
        chunks: How many chunks of text that was; 0 where the file does not say.
    """

    file: Path
    values: dict[str, torch.Tensor]
    datasets: tuple[str, ...]
    chunks: int

    @property
    def names(self) -> frozenset[str]:
        """The tensors it has values for."""
        return frozenset(self.values)

    def rows_of(self, name: str, shape: tuple[int, ...]) -> RowImportance | None:
        """Give what belongs to a tensor, None where there is nothing.

        Args:
            name: Its GGUF name.
            shape: Its shape, rows first; a leading dimension counts experts.
        """
        values = self.values.get(name)
        if values is None or values.numel() != _expected(shape):
            return None
        return RowImportance(values=values.reshape(-1, shape[-1]), rows=shape[-2])

    def check(self, tensors: Sequence[tuple[str, tuple[int, ...]]]) -> None:
        """Refuse a matrix of another model.

        Args:
            tensors: Name and shape of every tensor of the model.

        Raises:
            InputInvalid: It names a tensor that the model does not have, or has another number of columns for one; both are
                said. What it does not name is quantized without it, as llama.cpp does.
        """
        shapes = dict(tensors)
        for name, values in self.values.items():
            if name not in shapes:
                raise InputInvalid(
                    f"{self.file}: has values for {name}, which this model does not have",
                    hint=f"It is another model's. {_HINT}",
                )
            if values.numel() != _expected(shapes[name]) and not name.endswith("token_embd.weight"):
                raise InputInvalid(
                    f"{self.file}: has {values.numel()} values for {name}, which has {_expected(shapes[name])} columns",
                    hint=f"It is another model's. {_HINT}",
                )

    def metadata(self) -> tuple[MetadataEntry, ...]:
        """Give the keys that llama-quantize writes; the file by its name alone, which is the same on every machine."""
        entries = [MetadataEntry(key="quantize.imatrix.file", type=ValueType.STRING, value=_cut(self.file.name))]
        if self.datasets:
            dataset = _cut(self.datasets[0])
            entries.append(MetadataEntry(key="quantize.imatrix.dataset", type=ValueType.STRING, value=dataset))
        entries.append(
            MetadataEntry(key="quantize.imatrix.entries_count", type=ValueType.UINT32, value=len(self.values))
        )
        if self.chunks > 0:
            entries.append(MetadataEntry(key="quantize.imatrix.chunks_count", type=ValueType.UINT32, value=self.chunks))
        return tuple(entries)


def read_importance(path: Path) -> Importance:
    """Read a matrix in either format.

    Raises:
        InputInvalid: The file is missing or damaged, is no importance matrix, or has a value that is not finite.
    """
    with disk_errors(path), path.open("rb") as file:
        is_gguf = file.read(len(MAGIC)) == MAGIC
        if is_gguf:
            found = _read_gguf(path, file)
        else:
            file.seek(0)
            found = _Legacy(path, file).read()
    for name, values in found.values.items():
        if not bool(torch.isfinite(values).all()):
            raise InputInvalid(f"{path}: {name} has a value that is not finite", hint=_HINT)
    return found


def importance_for(path: Path | None, tensors: Sequence[tuple[str, tuple[int, ...]]]) -> Importance | None:
    """Read a matrix, if there is one, and check that it is this model's; see `read_importance` and `Importance.check`."""
    if path is None:
        return None
    found = read_importance(path)
    found.check(tensors)
    return found


def _read_gguf(path: Path, file: BinaryIO) -> Importance:
    header = read_gguf(path)
    if any(header.value(key) is None for key in _KEYS):
        kind = header.value("general.architecture") or header.value("general.type") or "no type"
        raise InputInvalid(f"{path}: a GGUF file of {kind}, not an importance matrix", hint=_HINT)
    tensors = {tensor.name: tensor for tensor in header.tensors}
    values = {}
    for name in sorted({_stem(tensor.name) for tensor in header.tensors}):
        sums, counts = tensors.get(name + _SUMS), tensors.get(name + _COUNTS)
        if sums is None or counts is None:
            raise InputInvalid(f"{path}: has only one of sums and counts for {name}", hint=_HINT)
        values[name] = _means(path, name, _floats(path, file, sums), _floats(path, file, counts))
    if not values:
        raise InputInvalid(f"{path}: has no entries", hint=_HINT)
    return Importance(file=path, values=values, datasets=_datasets(header), chunks=_count(header))


def _means(path: Path, name: str, sums: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    if counts.numel() == 0 or sums.numel() % counts.numel():
        raise InputInvalid(f"{path}: {name} has {sums.numel()} sums and {counts.numel()} counts", hint=_HINT)
    rounded = counts.round().reshape(-1, 1)
    means = sums.reshape(counts.numel(), -1) / rounded
    return torch.where(rounded > 0, means, torch.ones_like(means)).reshape(-1)


def _floats(path: Path, file: BinaryIO, tensor: GgufTensor) -> torch.Tensor:
    if tensor.type is not GgmlType.F32:
        raise InputInvalid(f"{path}: {tensor.name} is {tensor.type.name}, not F32", hint=_HINT)
    file.seek(tensor.offset)
    return torch.frombuffer(bytearray(file.read(tensor.size_bytes)), dtype=torch.float32)


def _stem(name: str) -> str:
    return name.removesuffix(_SUMS).removesuffix(_COUNTS)


def _datasets(header: GgufHeader) -> tuple[str, ...]:
    found = header.value(_KEYS[0])
    return tuple(map(str, found.items())) if isinstance(found, GgufArray) else ()


def _count(header: GgufHeader) -> int:
    found = header.value(_KEYS[1])
    return found if isinstance(found, int) else 0


class _Legacy:
    """The `.dat` format: a count, then name, calls and values for each entry, then chunks and a dataset's name."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._left = path.stat().st_size

    def read(self) -> Importance:
        values: dict[str, torch.Tensor] = {}
        count = self._number()
        if not 0 < count <= self._left // 12:
            raise self._bad(f"claims {count} entries")
        for _ in range(count):
            name, calls, size = self._text(), self._number(), self._number()
            if not 0 < size <= self._left // 4:
                raise self._bad(f"claims {size} values for {name!r}")
            sums = torch.frombuffer(bytearray(self._take(4 * size)), dtype=torch.float32)
            values[name] = sums / calls if calls > 0 else sums
        chunks = self._number() if self._left >= 4 else 0
        dataset = self._text() if self._left >= 4 else ""
        return Importance(file=self._path, values=values, datasets=(dataset,) if dataset else (), chunks=chunks)

    def _text(self) -> str:
        length = self._number()
        if not 0 <= length <= min(_MAX_NAME_BYTES, self._left):
            raise self._bad(f"claims a name of {length} bytes")
        return self._take(length).decode("utf-8", "replace")

    def _number(self) -> int:
        number: int = struct.unpack("<i", self._take(4))[0]
        return number

    def _take(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) != size:
            raise self._bad("ends early")
        self._left -= size
        return data

    def _bad(self, what: str) -> InputInvalid:
        return InputInvalid(f"{self._path}: not an importance matrix: {what}", hint=_HINT)


def _expected(shape: tuple[int, ...]) -> int:
    """Give how many values a tensor needs: its columns, times the experts of a stack of matrices."""
    return shape[-1] * math.prod(shape[:-2]) if len(shape) > 1 else 0


def _cut(text: str) -> str:
    return text.encode()[:_TEXT_BYTES].decode("utf-8", "ignore")
