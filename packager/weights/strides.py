"""Strides that tell which element of a tensor a view of it has at which place."""

from __future__ import annotations

from packager.weights.boxes import Shape
from packager.weights.row_graph import Axis


def telling_strides(shape: Shape) -> tuple[int, ...]:
    """Give strides from which an offset, or a multiple of one stride, tells its dimension and its index."""
    strides, stride = [], 1
    for size in reversed(shape):
        strides.append(stride)
        stride *= size + 1
    return tuple(reversed(strides))


def digits(offset: int, strides: tuple[int, ...]) -> tuple[int, ...]:
    """Give the index of the element at an offset, one number for each of the strides."""
    found = []
    for stride in strides:
        found.append(offset // stride)
        offset %= stride
    return tuple(found)


def view_axis(stride: int, strides: tuple[int, ...], origin: tuple[int, ...]) -> Axis:
    """Give where a dimension of a view with this stride runs; no source where that is no single dimension."""
    steps = digits(stride, strides)
    sources = [number for number, step in enumerate(steps) if step]
    if len(sources) != 1:  # a diagonal, or one element again and again
        return Axis(source=None)
    return Axis(source=sources[0], first=origin[sources[0]], step=steps[sources[0]])
