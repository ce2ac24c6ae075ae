"""Rows of a tensor that the converter computed from others, read without ever having it whole."""

from __future__ import annotations

import math

import torch

from packager.errors import InputInvalid
from packager.weights.lazy_graph import whole_parts
from packager.weights.merged import is_finite, matrix_shape, rows_per_block
from packager.weights.row_graph import Node, Reshaped, Whole
from packager.weights.slabs import SlabCache

# What is read once for several blocks: as few rows as are worth it, and at most this many elements.
SLAB_ELEMENTS = 1 << 23
_WORTH = 1.25


class ComputedRows:
    """Float32 rows of a tensor, for any number of threads.

    Where the rows of one block come from many places (heads whose rows are interleaved, matrices that are transposed), the
    blocks of the merged tensors would be read again and again; so a slab of several blocks is read, and kept for a while.

    Args:
        name: The tensor's name, for errors.
        node: What it is computed from.
        cache: Where slabs are kept.
    """

    def __init__(self, name: str, node: Node, cache: SlabCache) -> None:
        shape = matrix_shape(node.shape)
        self._name = name
        self._cache = cache
        self._rows, self._columns = shape
        self._node: Node = node if node.shape == shape else Reshaped(node, shape)
        self._step = self._slab_rows()
        if self._step == 0:
            self._node = Whole(shape, lambda: node.read(tuple((0, size) for size in node.shape)).reshape(shape), cache)

    @property
    def whole_bytes(self) -> int:
        """Give how many bytes of it are in memory at once because they can only be computed together."""
        return whole_bytes(self._node)

    def rows(self, first: int, end: int) -> torch.Tensor:
        """Give the rows `first` to `end`: shape `(end - first, columns)`, float32, contiguous, finite.

        Raises:
            InputInvalid: A value is not finite; the tensor is named.
        """
        step = self._step
        if step <= rows_per_block(self._columns):
            block = self._read(first, end)
        else:
            slabs = range(first // step, (end - 1) // step + 1)
            parts = [self._slab(n)[max(first, n * step) - n * step : end - n * step] for n in slabs]
            block = parts[0] if len(parts) == 1 else torch.cat(parts)
        if not is_finite(block):
            raise InputInvalid(f"tensor {self._name} has a value that is not finite")
        return block.contiguous()

    def _slab(self, number: int) -> torch.Tensor:
        first, end = number * self._step, min(self._rows, (number + 1) * self._step)
        return self._cache.get((self, number), lambda: self._read(first, end).contiguous())

    def _read(self, first: int, end: int) -> torch.Tensor:
        return self._node.read(((first, end), (0, self._columns)))

    def _slab_rows(self) -> int:
        """Give the smallest number of rows for which little is read in vain; 0 where everything falls into pieces."""
        step = rows_per_block(self._columns)
        while True:
            ratio = max(self._ratio(0, step), self._ratio(self._rows // 2, step))
            last = 2 * step * self._columns > SLAB_ELEMENTS or step >= self._rows
            if ratio <= _WORTH or (last and ratio < math.inf):
                return step
            if last:
                return 0
            step *= 2

    def _ratio(self, near: int, step: int) -> float:
        first = near // step * step
        end = min(self._rows, first + step)
        return self._node.cost(((first, end), (0, self._columns))) / ((end - first) * self._columns)


def whole_bytes(node: Node) -> int:
    """Give how many bytes of a graph are in memory at once because they can only be computed together."""
    return sum(4 * math.prod(part.shape) for part in whole_parts(node))
