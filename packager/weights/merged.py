"""The base's tensors with the adapter's updates added, read in row blocks: the one source of every output.

Unlike `peft.merge_and_unload`, nothing is loaded whole and the sum stays in float32: `W + scale * (B @ A)` is computed for a
fixed number of rows at a time, by one thread, so that its bits depend on the files alone, neither on the number of
threads nor on which output asked (`weights.updates`). Bytes are read with `pread`: a memory map would count the whole model as
resident, and would kill the process where a file is cut short while it is read.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import torch

from packager.artifacts import Adapter, Checkpoint, LoraPair, TensorEntry, Update, update_tensors
from packager.errors import InputInvalid, Unsupported
from packager.formats.fine_tuned import fine_tuned
from packager.weights.updates import UpdatedTensor

# Elements per row block. It is part of the result: another size may change the last bit of a merged weight.
BLOCK_ELEMENTS = 1 << 18

_TORCH_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
_MERGEABLE = ("F32", "F16", "BF16")
_DIVERGED = "The training may have diverged; use an earlier checkpoint."


def rows_per_block(columns: int) -> int:
    """Give how many rows of a matrix with this many columns make one block; at least 1."""
    return max(1, BLOCK_ELEMENTS // max(1, columns))


def row_blocks(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """Yield the half-open row ranges `(first, end)` that cover a matrix in blocks, in order."""
    step = rows_per_block(columns)
    for first in range(0, rows, step):
        yield first, min(rows, first + step)


@contextmanager
def single_threaded_torch() -> Iterator[None]:
    """Make every torch operation use one thread: the parallel work here is done on blocks, and bits must not vary."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class MergedTensors:
    """All tensors of base + adapter by name, readable in row blocks from any number of threads at once.

    Args:
        base: The checkpoint whose tensors are read.
        adapter: The updates; None gives the base's own values.

    Raises:
        InputInvalid: An update names a tensor that the base does not have; or, on entering, a value of the adapter is not
            finite.
        Unsupported: An update changes a tensor whose element type is not float32, bfloat16 or float16, or a low-rank one
            what is not a matrix.
    """

    def __init__(self, base: Checkpoint, adapter: Adapter | None) -> None:
        self.adapter = adapter
        self._entries = {entry.name: entry for entry in fine_tuned(base, adapter).tensors}
        self._adapter_tensors = adapter.tensors if adapter else ()
        updates: dict[str, list[Update]] = {}
        for update in adapter.updates if adapter else ():
            _check(update, self._entries.get(update.target), base)
            updates.setdefault(update.target, []).append(update)
        self._updated = {
            name: UpdatedTensor(
                self._entries[name], matrix_shape(self._entries[name].shape), tuple(found), self, row_blocks
            )
            for name, found in updates.items()
        }
        self._files: dict[Path, int] = {}
        self.observer: Callable[[str, int, torch.Tensor], None] | None = None  # told of every block of `rows`

    def __enter__(self) -> MergedTensors:
        tensors = [*self._entries.values(), *self._adapter_tensors]
        for file in sorted({tensor.file for tensor in tensors}):
            try:
                self._files[file] = os.open(file, os.O_RDONLY)
            except OSError as error:
                self._close()
                raise InputInvalid(f"{file}: {error.strerror}") from error
        try:
            for entry in self._adapter_tensors:
                self._require_finite(entry)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    @property
    def entries(self) -> tuple[TensorEntry, ...]:
        """All tensors with the shapes they have after merging; the base's order."""
        return tuple(self._entries.values())

    def dtype(self, name: str) -> torch.dtype:
        """Give the type a tensor has here: bfloat16 is widened, and what an update changes is float32."""
        stored = self._entries[name].dtype
        if name in self._updated or stored == "BF16":
            return torch.float32
        return _TORCH_DTYPES[stored]

    def shape(self, name: str) -> tuple[int, ...]:
        """Give a tensor's shape, in the checkpoint's order."""
        return self._entries[name].shape

    def rows(self, name: str, first: int, end: int) -> torch.Tensor:
        """Read the rows `first` to `end` of a tensor seen as a matrix, with its update added.

        Args:
            name: The tensor; its leading dimensions count as rows, a vector is one row.
            first: First row; the start of a block of `row_blocks`, so that every caller gets the same bits.
            end: One after the last row, the end of that block.

        Returns:
            Shape `(end - first, columns)`, of type `dtype(name)`, finite.

        Raises:
            InputInvalid: The file ends before the tensor does, or a value is not finite; the tensor is named.
        """
        block = self._computed(name, first, end)
        if not is_finite(block):
            self._require_finite(self._entries[name])
            raise InputInvalid(f"merged tensor {name} has a value that is not finite", hint=_DIVERGED)
        return self._observed(name, first, block)

    def _computed(self, name: str, first: int, end: int) -> torch.Tensor:
        updated = self._updated.get(name)
        if updated is not None:
            return updated.rows(first, end)
        return self.read(self._entries[name], first, end).to(self.dtype(name))

    def whole(self, name: str) -> torch.Tensor:
        """Read a whole tensor in its own shape; the same bits as its `rows`, block by block."""
        shape = self.shape(name)
        rows, columns = matrix_shape(shape)
        result = torch.empty((rows, columns), dtype=self.dtype(name))
        for first, end in row_blocks(rows, columns):
            result[first:end] = self.rows(name, first, end)
        return result.reshape(shape)

    def read(self, entry: TensorEntry, first: int, end: int) -> torch.Tensor:
        """Read the rows `first` to `end` of a stored tensor seen as a matrix, in its own type.

        Raises:
            InputInvalid: The file ends before the tensor does.
            Unsupported: Its type cannot be read.
        """
        dtype = self._stored_dtype(entry)
        _, columns = matrix_shape(entry.shape)
        row_bytes = columns * dtype.itemsize
        raw = torch.empty((end - first) * row_bytes, dtype=torch.uint8)
        self._read_into(byte_view(raw), entry, entry.offset + first * row_bytes)
        return raw.view(dtype).reshape(end - first, columns)

    def read_columns(self, entry: TensorEntry, first: int, end: int) -> torch.Tensor:
        """Read the columns `first` to `end` of a stored tensor seen as a matrix, in its own type; raises as `read`."""
        dtype = self._stored_dtype(entry)
        rows, columns = matrix_shape(entry.shape)
        wanted = (end - first) * dtype.itemsize
        raw = torch.empty(rows * wanted, dtype=torch.uint8)
        view = byte_view(raw)
        for row in range(rows):
            offset = entry.offset + (row * columns + first) * dtype.itemsize
            self._read_into(view[row * wanted : (row + 1) * wanted], entry, offset)
        return raw.view(dtype).reshape(rows, end - first)

    def _observed(self, name: str, first: int, block: torch.Tensor) -> torch.Tensor:
        """Tell the observer of a block; everything that gives blocks has to."""
        if self.observer is not None:
            self.observer(name, first, block)
        return block

    def _require_finite(self, entry: TensorEntry) -> None:
        for first, end in row_blocks(*matrix_shape(entry.shape)):
            if not is_finite(self.read(entry, first, end)):
                text = f"{entry.file}: tensor {entry.name} has a value that is not finite"
                raise InputInvalid(text, hint=_DIVERGED)

    def _stored_dtype(self, entry: TensorEntry) -> torch.dtype:
        dtype = _TORCH_DTYPES.get(entry.dtype)
        if dtype is None:
            raise Unsupported(
                f"{entry.file}: tensor {entry.name} is stored as {entry.dtype}", hint="Use the 16-bit base."
            )
        return dtype

    def _read_into(self, view: memoryview, entry: TensorEntry, offset: int) -> None:
        file = self._files[entry.file]
        while view:
            count = os.preadv(file, [view], offset)
            if count == 0:
                raise InputInvalid(
                    f"{entry.file}: ends inside tensor {entry.name}", hint="Copy or download the file again."
                )
            view, offset = view[count:], offset + count

    def _close(self) -> None:
        for file in self._files.values():
            os.close(file)
        self._files.clear()


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Give `(rows, columns)` of a shape whose leading dimensions are flattened; a vector is one row, a scalar one value."""
    if not shape:
        return 1, 1
    return math.prod(shape[:-1]), shape[-1]


def byte_view(tensor: torch.Tensor) -> memoryview:
    """Give the bytes of a contiguous tensor, without a copy."""
    array = tensor.reshape(-1).view(torch.uint8).numpy()
    return memoryview(array)  # type: ignore[arg-type]  # numpy arrays are buffers; the stubs of Python 3.11 cannot say so


def is_finite(block: torch.Tensor) -> bool:
    """Whether a block holds neither NaN nor infinity (one pass: both survive the minimum and the maximum)."""
    if block.numel() == 0 or not block.is_floating_point():
        return True
    if block.dtype.itemsize == 1:  # no minimum is defined for 8-bit floats
        block = block.to(torch.float32)
    return all(math.isfinite(float(bound)) for bound in torch.aminmax(block))


def _check(update: Update, entry: TensorEntry | None, base: Checkpoint) -> None:
    if entry is None:
        file = update_tensors(update)[0].file
        raise InputInvalid(f"{file}: adapts {update.target}, which {base.folder} does not have")
    if entry.dtype not in _MERGEABLE or (isinstance(update, LoraPair) and len(entry.shape) != 2):
        what = f"{entry.dtype} of shape {entry.shape}"
        raise Unsupported(f"{entry.file}: cannot merge into {entry.name} ({what})", hint="Use the 16-bit base.")
