"""What the converter does to a tensor, as a graph of which any box can be computed from boxes of the merged tensors.

Only what moves elements or computes each by itself is here; both give the same bits for a box as for the whole tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from packager.weights.boxes import Box, Shape, boxes, run_count, runs, sizes
from packager.weights.merged import MergedTensors, matrix_shape, rows_per_block
from packager.weights.slabs import SlabCache

# A box that falls into more pieces than this is not worth reading piece by piece.
MAX_RUNS = 1 << 14


class Node(Protocol):
    """A tensor that can be read in boxes, from any thread."""

    @property
    def shape(self) -> Shape:
        """Its shape."""
        ...

    def read(self, box: Box) -> torch.Tensor:
        """Give the elements of a box, in the box's shape; a result may share memory with a tensor nobody else has."""
        ...

    def cost(self, box: Box) -> float:
        """Give how many elements of merged tensors are read for a box; infinite where it falls into too many pieces."""
        ...


@dataclass(frozen=True, eq=False)
class Stored:
    """A merged tensor. Its rows are always read in the blocks of `row_blocks`, on which their bits depend."""

    merged: MergedTensors
    name: str

    @property
    def shape(self) -> Shape:
        """Its shape in the checkpoint."""
        return self.merged.shape(self.name)

    def read(self, box: Box) -> torch.Tensor:
        """Read the blocks that a box touches, one at a time, and keep what lies in it."""
        lead, bounds = _matrix_box(self.shape, box)
        left, right = bounds
        found = torch.empty((math.prod(sizes(box[:-1])), right - left), dtype=self.merged.dtype(self.name))
        done = 0
        for first, end in runs(lead, box[:-1]):
            for start, stop in self._blocks(first, end):
                low, high = max(first, start), min(end, stop)
                rows = self.merged.rows(self.name, start, stop)[low - start : high - start, left:right]
                found[done : done + high - low] = rows
                done += high - low
        return found.reshape(sizes(box))

    def cost(self, box: Box) -> float:
        """Give the elements of the blocks it touches."""
        lead, _ = _matrix_box(self.shape, box)
        if run_count(lead, box[:-1]) > MAX_RUNS:
            return math.inf
        columns = matrix_shape(self.shape)[1]
        blocks = (block for run in runs(lead, box[:-1]) for block in self._blocks(*run))
        return float(sum(stop - start for start, stop in blocks) * columns)

    def _blocks(self, first: int, end: int) -> list[tuple[int, int]]:
        rows, columns = matrix_shape(self.shape)
        step = rows_per_block(columns)
        return [(start, min(rows, start + step)) for start in range(first // step * step, end, step)]


@dataclass(frozen=True, eq=False)
class Constant:
    """A tensor that the converter made itself."""

    tensor: torch.Tensor

    @property
    def shape(self) -> Shape:
        """Its shape."""
        return tuple(self.tensor.shape)

    def read(self, box: Box) -> torch.Tensor:
        """Give a part of it."""
        return self.tensor[_slices(box)]

    def cost(self, box: Box) -> float:
        """Nothing is read."""
        return 0.0


@dataclass(frozen=True, eq=False)
class Whole:
    """A tensor that can only be computed as a whole; the cache says how many of them are kept at a time."""

    shape: Shape
    compute: Callable[[], torch.Tensor]
    cache: SlabCache

    def read(self, box: Box) -> torch.Tensor:
        """Give a part of it, computing it when it is not in the cache."""
        return self.cache.get(self, self.compute)[_slices(box)]

    def cost(self, box: Box) -> float:
        """Give what the box holds: how much is read for it cannot be known."""
        return float(math.prod(sizes(box)))


@dataclass(frozen=True, eq=False)
class Reshaped:
    """The same elements in the same row-major order under another shape."""

    inner: Node
    shape: Shape

    def read(self, box: Box) -> torch.Tensor:
        """Put together the runs that a box consists of."""
        parts = [self.inner.read(part).reshape(-1) for part in self._parts(box)]
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).reshape(sizes(box))

    def cost(self, box: Box) -> float:
        """Give the sum over the runs."""
        kept = self._kept()
        if run_count(self.shape[: len(self.shape) - kept], box[: len(box) - kept]) > MAX_RUNS:
            return math.inf
        return sum(self.inner.cost(part) for part in self._parts(box))

    def _parts(self, box: Box) -> list[Box]:
        kept = self._kept()
        lead, inner = self.shape[: len(self.shape) - kept], self.inner.shape[: len(self.inner.shape) - kept]
        tail = box[len(lead) :]
        return [(*part, *tail) for run in runs(lead, box[: len(lead)]) for part in boxes(inner, *run)]

    def _kept(self) -> int:
        """Give how many trailing dimensions are the same on both sides, so that any range of them stays one."""
        kept = 0
        for mine, theirs in zip(reversed(self.shape), reversed(self.inner.shape), strict=False):
            if mine != theirs:
                break
            kept += 1
        return kept


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Where a dimension of a view runs: along dimension `source` from `first`, by `step`; None is a new one of size 1."""

    source: int | None
    first: int = 0
    step: int = 1


@dataclass(frozen=True, eq=False)
class Viewed:
    """Dimensions reordered, cut, stepped over, added or dropped; `origin` is the index of dimensions that are dropped."""

    inner: Node
    shape: Shape
    axes: tuple[Axis, ...]
    origin: tuple[int, ...]

    def read(self, box: Box) -> torch.Tensor:
        """Read the box it comes from and bring that into this order."""
        kept = [axis.source for axis in self.axes if axis.source is not None]
        steps = {axis.source: axis.step for axis in self.axes}
        found = self.inner.read(self._source(box))
        index = tuple(slice(None, None, steps[n]) if n in steps else 0 for n in range(len(self.inner.shape)))
        order = sorted(kept)
        return found[index].permute([order.index(source) for source in kept]).reshape(sizes(box))

    def cost(self, box: Box) -> float:
        """Give the cost of the box it comes from."""
        return self.inner.cost(self._source(box))

    def _source(self, box: Box) -> Box:
        bounds = [(position, position + 1) for position in self.origin]
        for axis, (first, end) in zip(self.axes, box, strict=True):
            if axis.source is not None:
                bounds[axis.source] = (axis.first + first * axis.step, axis.first + (end - 1) * axis.step + 1)
        return tuple(bounds)


@dataclass(frozen=True, eq=False)
class Joined:
    """Tensors one after the other along a dimension."""

    parts: tuple[Node, ...]
    dimension: int
    shape: Shape

    def read(self, box: Box) -> torch.Tensor:
        """Read what the box has of each part."""
        found = [part.read(inner) for part, inner in self._touched(box)]
        return found[0] if len(found) == 1 else torch.cat(found, dim=self.dimension)

    def cost(self, box: Box) -> float:
        """Give the sum over the parts."""
        return sum(part.cost(inner) for part, inner in self._touched(box))

    def _touched(self, box: Box) -> list[tuple[Node, Box]]:
        first, end = box[self.dimension]
        touched, start = [], 0
        for part in self.parts:
            stop = start + part.shape[self.dimension]
            low, high = max(first, start), min(end, stop)
            if low < high:
                inner = (*box[: self.dimension], (low - start, high - start), *box[self.dimension + 1 :])
                touched.append((part, inner))
            start = stop
        return touched


@dataclass(frozen=True, eq=False)
class Elementwise:
    """Each element computed from the elements of the same place, as torch broadcasts them, and rounded once."""

    compute: Callable[[list[torch.Tensor]], torch.Tensor]
    parts: tuple[Node, ...]
    shape: Shape

    def read(self, box: Box) -> torch.Tensor:
        """Read the same box of every part, and compute."""
        return self.compute([part.read(_broadcast(part.shape, box)) for part in self.parts])

    def cost(self, box: Box) -> float:
        """Give the sum over the parts."""
        return sum(part.cost(_broadcast(part.shape, box)) for part in self.parts)


def _broadcast(shape: Shape, box: Box) -> Box:
    tail = box[len(box) - len(shape) :]
    return tuple((0, 1) if size == 1 else bounds for size, bounds in zip(shape, tail, strict=True))


def _matrix_box(shape: Shape, box: Box) -> tuple[Shape, tuple[int, int]]:
    return shape[:-1], box[-1] if shape else (0, 1)


def _slices(box: Box) -> tuple[slice, ...]:
    return tuple(slice(first, end) for first, end in box)
