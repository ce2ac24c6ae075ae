"""The pass itself: each block is read and merged once, converted for every output, and written to all of them in order.

Threads take blocks; one thread writes what they give, in the order of the tensors, and digests it. A bounded number of
blocks is in flight, so memory depends on that number and not on the model. Which thread took which block changes nothing.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import torch

from packager.errors import InputInvalid
from packager.formats.gguf import GgmlType
from packager.weights.converter import ConvertedTensor
from packager.weights.importance import Importance, RowImportance
from packager.weights.kernels import convert_rows
from packager.weights.merged import MergedTensors, is_finite, matrix_shape, row_blocks

# Blocks that may wait to be written: while the tokenizer is read, this is what the kernels work on.
_BLOCKS_AHEAD = 96


@dataclass(frozen=True, kw_only=True)
class ConvertedBlock:
    """Some rows of a tensor in every type that an output wants; `last` ends the tensor."""

    name: str
    data: dict[GgmlType, memoryview]
    last: bool


def usable_cores() -> int:
    """Give the number of processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class BlockStream:
    """Converts tensors in the background from the moment it is made; iterate to get the blocks in order.

    Args:
        tensors: What to convert, in order.
        merged: Where renamed tensors are read from.
        types: The types a tensor is wanted in.
        threads: Number of threads that convert.
        importance: The importance matrix; None without one.
    """

    def __init__(
        self,
        tensors: Sequence[ConvertedTensor],
        merged: MergedTensors,
        types: Callable[[str], frozenset[GgmlType]],
        threads: int,
        importance: Importance | None = None,
    ) -> None:
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="convert")
        self._tasks = _tasks(tensors, merged, types, importance)
        self._waiting: deque[Future[ConvertedBlock]] = deque()
        self._ahead = _BLOCKS_AHEAD + threads
        self._fill()

    def __enter__(self) -> BlockStream:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __iter__(self) -> Iterator[ConvertedBlock]:
        while self._waiting:
            block = self._waiting.popleft().result()
            self._fill()
            yield block

    def _fill(self) -> None:
        while len(self._waiting) < self._ahead:
            task = next(self._tasks, None)
            if task is None:
                return
            self._waiting.append(self._pool.submit(task))


def _tasks(
    tensors: Sequence[ConvertedTensor],
    merged: MergedTensors,
    types: Callable[[str], frozenset[GgmlType]],
    importance: Importance | None,
) -> Iterator[Callable[[], ConvertedBlock]]:
    for tensor in tensors:
        rows, columns = matrix_shape(tensor.shape)
        reader = row_reader(tensor, merged)
        wanted = types(tensor.name)
        weights = importance.rows_of(tensor.name, tensor.shape) if importance is not None else None
        for first, end in row_blocks(rows, columns):
            yield _Task(tensor.name, reader, wanted, first, end, end == rows, weights)


class RowReader(Protocol):
    """Gives the float32 rows of one tensor to any number of threads."""

    def rows(self, first: int, end: int) -> torch.Tensor:
        """Give the rows `first` to `end`, a block of `row_blocks`, which is asked for once."""
        ...


def row_reader(tensor: ConvertedTensor, merged: MergedTensors) -> RowReader:
    """Give what reads a converted tensor in row blocks; where it has to be computed whole, that is done once.

    Raises (its `rows`):
        InputInvalid: A value is not finite, or a file ends early; the tensor is named.
    """
    return _RenamedRows(merged, tensor.source) if tensor.source is not None else _EvaluatedRows(tensor)


@dataclass(frozen=True)
class _Task:
    name: str
    reader: RowReader
    types: frozenset[GgmlType]
    first: int
    end: int
    last: bool
    importance: RowImportance | None

    def __call__(self) -> ConvertedBlock:
        with torch.inference_mode():
            block = self.reader.rows(self.first, self.end)
            kinds = sorted(self.types)
            data = convert_rows(block, kinds, self.name, first=self.first, importance=self.importance)
        return ConvertedBlock(name=self.name, data=data, last=self.last)


class _RenamedRows:
    """Rows of a merged tensor that the converter only gave another name."""

    def __init__(self, merged: MergedTensors, source: str) -> None:
        self._merged = merged
        self._source = source

    def rows(self, first: int, end: int) -> torch.Tensor:
        return self._merged.rows(self._source, first, end).to(torch.float32)


class _EvaluatedRows:
    """Rows of a tensor that has to be computed whole: by whoever needs it first, kept until its last rows are taken."""

    def __init__(self, tensor: ConvertedTensor) -> None:
        self._tensor = tensor
        self._lock = threading.Lock()
        self._matrix: torch.Tensor | None = None
        self._left = matrix_shape(tensor.shape)[0]

    def rows(self, first: int, end: int) -> torch.Tensor:
        with self._lock:
            if self._matrix is None:
                self._matrix = self._tensor.evaluate().reshape(matrix_shape(self._tensor.shape))
            block = self._matrix[first:end]
            self._left -= end - first
            if self._left == 0:
                self._matrix = None
        if not is_finite(block):
            raise InputInvalid(f"tensor {self._tensor.name} has a value that is not finite")
        return block
