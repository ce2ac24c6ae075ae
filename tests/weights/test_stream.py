from __future__ import annotations

from pathlib import Path

import pytest
import torch

from packager.errors import InputInvalid
from packager.formats.gguf import GgmlType
from packager.weights import merged as merged_module
from packager.weights.converter import ConvertedTensor
from packager.weights.merged import MergedTensors
from packager.weights.row_graph import Whole
from packager.weights.slabs import SlabCache
from packager.weights.stream import BlockStream
from tests.weights.made_checkpoints import checkpoint

F32 = frozenset({GgmlType.F32})


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merged_module, "BLOCK_ELEMENTS", 16)


def converted(name: str, weight: torch.Tensor, *, source: str | None, calls: list[str]) -> ConvertedTensor:
    def evaluate() -> torch.Tensor:
        calls.append(name)
        return weight

    cache = SlabCache()
    return ConvertedTensor(
        name=name,
        shape=tuple(weight.shape),
        f16_type=GgmlType.F16,
        f32_type=GgmlType.F32,
        source=source,
        graph=Whole(tuple(weight.shape), evaluate, cache),
        cache=cache,
    )


@pytest.mark.parametrize("threads", [1, 4])
def test_blocks_come_in_order_whoever_made_them(threads: int, tmp_path: Path) -> None:
    weights = {f"w{n}": torch.randn(9, 8, generator=torch.Generator().manual_seed(n)) for n in range(12)}
    calls: list[str] = []
    tensors = [
        converted(name, weight, source=None if n % 3 else name, calls=calls)
        for n, (name, weight) in enumerate(weights.items())
    ]
    found: dict[str, bytes] = {}
    ended = []
    with (
        MergedTensors(checkpoint(tmp_path, weights), None) as merged,
        BlockStream(tensors, merged, lambda name: F32, threads) as stream,
    ):
        for block in stream:
            found[block.name] = found.get(block.name, b"") + bytes(block.data[GgmlType.F32])
            if block.last:
                ended.append(block.name)
    assert ended == list(weights)
    assert found == {name: weight.numpy().tobytes() for name, weight in weights.items()}
    assert sorted(calls) == sorted(name for n, name in enumerate(weights) if n % 3)  # each is computed once


def test_an_error_in_a_thread_reaches_the_reader(tmp_path: Path) -> None:
    weight = torch.full((4, 8), float("nan"))
    tensors = [converted("blk.0.x", weight, source=None, calls=[])]
    with (
        MergedTensors(checkpoint(tmp_path, {"w": torch.ones(1)}), None) as merged,
        BlockStream(tensors, merged, lambda name: F32, 2) as stream,
        pytest.raises(InputInvalid, match=r"blk\.0\.x has a value that is not finite"),
    ):
        list(stream)
