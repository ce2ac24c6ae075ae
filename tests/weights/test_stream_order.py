"""The stream's promises about threads: order, errors, how far it works ahead, and what it keeps."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from packager.formats.gguf import GgmlType
from packager.weights import merged as merged_module
from packager.weights import stream as stream_module
from packager.weights.converter import ConvertedTensor
from packager.weights.journal import Position
from packager.weights.merged import MergedTensors
from packager.weights.row_graph import Whole
from packager.weights.slabs import SlabCache
from packager.weights.stream import BlockStream
from tests.weights.made_checkpoints import checkpoint

COLUMNS = 32
F16 = frozenset({GgmlType.F16})


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows a block."""
    monkeypatch.setattr(merged_module, "BLOCK_ELEMENTS", 2 * COLUMNS)


@pytest.fixture
def nothing(tmp_path: Path) -> Iterator[MergedTensors]:
    with MergedTensors(checkpoint(tmp_path, {"unused": torch.ones(1)}), None) as merged:
        yield merged


def computed(name: str, rows: int, evaluate: Callable[[], torch.Tensor]) -> ConvertedTensor:
    types = {"f16_type": GgmlType.F16, "f32_type": GgmlType.F32}
    cache = SlabCache(limit_bytes=0)
    graph = Whole((rows, COLUMNS), evaluate, cache)
    return ConvertedTensor(name=name, shape=(rows, COLUMNS), source=None, graph=graph, cache=cache, **types)


def test_a_later_tensor_that_is_ready_first_still_comes_later(nothing: MergedTensors) -> None:
    """The first cannot be computed before the last one is: so they are made out of order, and given in order."""
    last_is_ready = threading.Event()

    def first() -> torch.Tensor:
        assert last_is_ready.wait(timeout=20)
        return torch.full((4, COLUMNS), 1.0)

    def last() -> torch.Tensor:
        last_is_ready.set()
        return torch.full((2, COLUMNS), 2.0)

    with BlockStream([computed("first", 4, first), computed("last", 2, last)], nothing, lambda name: F16, 3) as stream:
        found = [(block.name, np.frombuffer(block.data[GgmlType.F16], np.float16)[0], block.last) for block in stream]
    assert found == [("first", 1.0, False), ("first", 1.0, True), ("last", 2.0, True)]


@pytest.mark.parametrize("threads", [1, 4], ids=["one", "four"])
def test_an_error_comes_in_its_turn_and_the_pool_ends(
    threads: int, nothing: MergedTensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is before it is given first, and what is far behind it is never begun."""
    monkeypatch.setattr(stream_module, "BYTES_AHEAD", 2 * 2 * 4 * COLUMNS)
    begun = []

    def numbered(number: int) -> Callable[[], torch.Tensor]:
        def evaluate() -> torch.Tensor:
            begun.append(number)
            if number == 5:
                raise OSError("the file is gone")
            return torch.full((2, COLUMNS), float(number))

        return evaluate

    tensors = [computed(f"w{number}", 2, numbered(number)) for number in range(40)]
    with BlockStream(tensors, nothing, lambda name: F16, threads) as stream:
        blocks = iter(stream)
        assert [next(blocks).name for _ in range(5)] == [f"w{number}" for number in range(5)]
        with pytest.raises(OSError, match="the file is gone"):
            next(blocks)
    assert set(range(6)) <= set(begun)
    assert max(begun) <= 5 + 2 + threads
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("convert")]


@pytest.mark.parametrize("threads", [1, 6], ids=["one", "six"])
def test_a_computed_tensor_is_computed_once(threads: int, nothing: MergedTensors) -> None:
    """However many threads want its rows at once."""
    begun = []

    def evaluate() -> torch.Tensor:
        begun.append(1)
        time.sleep(0.05)
        return torch.ones(12, COLUMNS)

    tensors = [computed("whole", 12, evaluate)]
    with BlockStream(tensors, nothing, lambda name: F16, threads) as stream:
        assert [block.last for block in stream] == [False] * 5 + [True]
    assert begun == [1]


def test_it_can_start_behind_any_block(nothing: MergedTensors) -> None:
    tensors = [computed(name, rows, lambda: torch.ones(12, COLUMNS)) for name, rows in (("a", 6), ("b", 4), ("c", 2))]
    with BlockStream(tensors, nothing, lambda name: F16, 2) as stream:
        blocks = [(block.name, block.last, block.after, block.size_bytes) for block in stream]
    size = 2 * COLUMNS * 2
    assert [block[0] for block in blocks] == ["a", "a", "a", "b", "b", "c"]
    assert [block[2] for block in blocks[:3]] == [
        Position(tensor=0, row=2),
        Position(tensor=0, row=4),
        Position(tensor=1, row=0),
    ]
    assert {block[3] for block in blocks} == {size}
    for number, block in enumerate(blocks):
        with BlockStream(tensors, nothing, lambda name: F16, 2, block[2]) as stream:
            assert [(b.name, b.last, b.after, b.size_bytes) for b in stream] == blocks[number + 1 :]
