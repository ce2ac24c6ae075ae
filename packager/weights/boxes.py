"""Boxes of a tensor, one index range for each dimension, and the runs of elements they cover in row-major order.

A reshape keeps the row-major order of the elements and nothing else. So a box of its result is a few runs of consecutive
elements, and each run is a few boxes of what it was made from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product

Shape = tuple[int, ...]
Box = tuple[tuple[int, int], ...]  # half-open, one for each dimension


def whole(shape: Shape) -> Box:
    """Give the box that covers a shape."""
    return tuple((0, size) for size in shape)


def sizes(box: Box) -> Shape:
    """Give the shape of what a box covers."""
    return tuple(end - first for first, end in box)


def runs(shape: Shape, box: Box) -> Iterator[tuple[int, int]]:
    """Yield the half-open ranges of consecutive elements that a box covers, in row-major order of the box.

    For shape (2, 3) the box ((0, 2), (1, 3)) is the runs (1, 3) and (4, 6).
    """
    lead = _lead(shape, box)
    inner = math.prod(shape[lead:])
    if lead == 0:
        yield 0, inner
        return
    first, end = box[lead - 1]
    for index in product(*(range(*bounds) for bounds in box[: lead - 1])):
        flat = 0
        for position, size in zip(index, shape, strict=False):
            flat = flat * size + position
        start = flat * shape[lead - 1]
        yield (start + first) * inner, (start + end) * inner


def run_count(shape: Shape, box: Box) -> int:
    """Give how many runs `runs` yields."""
    return math.prod(sizes(box[: max(0, _lead(shape, box) - 1)]))


def _lead(shape: Shape, box: Box) -> int:
    """Give how many leading dimensions are left when those that the box covers whole are taken from the end."""
    lead = len(shape)
    while lead and box[lead - 1] == (0, shape[lead - 1]):
        lead -= 1
    return lead


def boxes(shape: Shape, first: int, end: int) -> Iterator[Box]:
    """Yield boxes that together are a run of elements, in its order; at most two for each dimension.

    For shape (2, 3) the run (1, 6) is the boxes ((0, 1), (1, 3)) and ((1, 2), (0, 3)).
    """
    if first >= end:
        return
    if not shape:
        yield ()
        return
    inner = math.prod(shape[1:])
    start, last = first // inner, (end - 1) // inner
    if start == last:
        for box in boxes(shape[1:], first - start * inner, end - start * inner):
            yield ((start, start + 1), *box)
        return
    if first % inner:
        yield from boxes(shape, first, (start + 1) * inner)
        start += 1
    stop = end // inner
    if start < stop:
        yield ((start, stop), *whole(shape[1:]))
    yield from boxes(shape, stop * inner, end)
