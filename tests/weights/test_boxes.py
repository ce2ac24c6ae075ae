from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from packager.weights.boxes import Box, boxes, run_count, runs, sizes, whole

SHAPES = st.lists(st.integers(1, 4), max_size=4).map(tuple)


@st.composite
def boxed(draw: st.DrawFn) -> tuple[tuple[int, ...], Box]:
    shape = draw(SHAPES)
    bounds = [sorted(draw(st.lists(st.integers(0, size), min_size=2, max_size=2, unique=True))) for size in shape]
    return shape, tuple((first, end) for first, end in bounds)


@given(boxed())
def test_runs_are_the_elements_of_a_box_in_its_order(case: tuple[tuple[int, ...], Box]) -> None:
    shape, box = case
    flat = np.arange(int(np.prod(shape))).reshape(shape)
    expected = flat[tuple(slice(*bounds) for bounds in box)].reshape(-1)
    found = list(runs(shape, box))
    assert [n for first, end in found for n in range(first, end)] == expected.tolist()
    assert run_count(shape, box) == len(found)


@given(SHAPES, st.data())
def test_boxes_are_the_elements_of_a_run_in_its_order(shape: tuple[int, ...], data: st.DataObject) -> None:
    count = int(np.prod(shape))
    first = data.draw(st.integers(0, count))
    end = data.draw(st.integers(first, count))
    flat = np.arange(count).reshape(shape)
    parts = [flat[tuple(slice(*bounds) for bounds in box)].reshape(-1) for box in boxes(shape, first, end)]
    assert [int(n) for part in parts for n in part] == list(range(first, end))
    assert len(parts) <= max(1, 2 * len(shape))


def test_a_whole_box_has_the_shape() -> None:
    assert sizes(whole((3, 1, 4))) == (3, 1, 4)
    assert list(boxes((2, 3), 1, 6)) == [((0, 1), (1, 3)), ((1, 2), (0, 3))]
