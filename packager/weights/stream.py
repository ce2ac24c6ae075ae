"""The pass itself: each block is read and merged once, converted for every output, and written to all of them in order.

Threads take blocks and convert them; what they give comes out in the order of the tensors. A bounded number of bytes is in
flight, so memory depends on that number and not on the model. Which thread took which block changes nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import torch

from packager.formats.gguf import GgmlType, tensor_bytes
from packager.weights.computed_rows import ComputedRows
from packager.weights.converter import ConvertedTensor
from packager.weights.importance import Importance, RowImportance
from packager.weights.journal import START, Position
from packager.weights.kernels import convert_rows
from packager.weights.memory import BYTES_AHEAD
from packager.weights.merged import MergedTensors, matrix_shape, row_blocks


@dataclass(frozen=True, kw_only=True)
class ConvertedBlock:
    """Some rows of a tensor in every type that an output wants; `last` ends the tensor, `after` is where the pass is then."""

    name: str
    data: dict[GgmlType, memoryview]
    last: bool
    after: Position

    @property
    def size_bytes(self) -> int:
        """Give the bytes of all types together."""
        return sum(len(data) for data in self.data.values())


class BlockStream:
    """Converts tensors in the background from the moment it is made; iterate to get the blocks in order.

    Args:
        tensors: What to convert, in order.
        merged: Where renamed tensors are read from.
        types: The types a tensor is wanted in.
        threads: Number of threads that convert.
        start: The end of a block; what lies before is left out.
        importance: The importance matrix; None without one.
    """

    def __init__(
        self,
        tensors: Sequence[ConvertedTensor],
        merged: MergedTensors,
        types: Callable[[str], frozenset[GgmlType]],
        threads: int,
        start: Position = START,
        importance: Importance | None = None,
    ) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="convert")
        self._tasks = _tasks(tensors, merged, types, start, importance)
        self._waiting: deque[tuple[Future[ConvertedBlock], int]] = deque()
        self._ahead_bytes = 0
        self._fill()

    def __enter__(self) -> BlockStream:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __iter__(self) -> Iterator[ConvertedBlock]:
        while self._waiting:
            future, size_bytes = self._waiting.popleft()
            block = future.result()
            self._ahead_bytes -= size_bytes
            self._fill()
            yield block

    def _fill(self) -> None:
        while self._ahead_bytes < BYTES_AHEAD or len(self._waiting) <= self._threads:
            task = next(self._tasks, None)
            if task is None:
                return
            self._ahead_bytes += task.size_bytes
            self._waiting.append((self._pool.submit(task), task.size_bytes))


def _tasks(
    tensors: Sequence[ConvertedTensor],
    merged: MergedTensors,
    types: Callable[[str], frozenset[GgmlType]],
    start: Position,
    importance: Importance | None,
) -> Iterator[_Task]:
    for number, tensor in enumerate(tensors):
        if number < start.tensor:
            continue
        rows, columns = matrix_shape(tensor.shape)
        reader = row_reader(tensor, merged)
        wanted = types(tensor.name)
        weights = importance.rows_of(tensor.name, tensor.shape) if importance is not None else None
        for first, end in row_blocks(rows, columns):
            last = end == rows
            if number > start.tensor or first >= start.row:
                after = Position(tensor=number + 1, row=0) if last else Position(tensor=number, row=end)
                yield _Task(tensor.name, reader, wanted, first, end, columns, after, weights)


class RowReader(Protocol):
    """Gives the float32 rows of one tensor to any number of threads."""

    def rows(self, first: int, end: int) -> torch.Tensor:
        """Give the rows `first` to `end`, a block of `row_blocks`, which is asked for once."""
        ...


def row_reader(tensor: ConvertedTensor, merged: MergedTensors) -> RowReader:
    """Give what reads a converted tensor in row blocks.

    Raises (its `rows`):
        InputInvalid: A value is not finite, or a file ends early; the tensor is named.
    """
    if tensor.source is not None:
        return _RenamedRows(merged, tensor.source)
    return ComputedRows(tensor.name, tensor.graph, tensor.cache)


@dataclass(frozen=True)
class _Task:
    name: str
    reader: RowReader
    types: frozenset[GgmlType]
    first: int
    end: int
    columns: int
    after: Position
    importance: RowImportance | None

    @property
    def size_bytes(self) -> int:
        """Give how large the block is, in float32 or converted, whichever is more: what is freed in between leaves holes."""
        shape = (self.end - self.first, self.columns)
        return max(tensor_bytes(shape, GgmlType.F32), sum(tensor_bytes(shape, kind) for kind in self.types))

    def __call__(self) -> ConvertedBlock:
        with torch.inference_mode():
            block = self.reader.rows(self.first, self.end)
            kinds = sorted(self.types)
            data = convert_rows(block, kinds, self.name, first=self.first, importance=self.importance)
        return ConvertedBlock(name=self.name, data=data, last=self.after.row == 0, after=self.after)


class _RenamedRows:
    """Rows of a merged tensor that the converter only gave another name."""

    def __init__(self, merged: MergedTensors, source: str) -> None:
        self._merged = merged
        self._source = source

    def rows(self, first: int, end: int) -> torch.Tensor:
        return self._merged.rows(self._source, first, end).to(torch.float32)
