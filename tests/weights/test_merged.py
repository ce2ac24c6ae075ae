from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from packager.errors import InputInvalid, Unsupported
from packager.weights import merged as module
from packager.weights.merged import (
    MergedTensors,
    byte_view,
    is_finite,
    matrix_shape,
    row_blocks,
    rows_per_block,
    single_threaded_torch,
)
from tests.weights.made_checkpoints import adapter, checkpoint, pairs


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few rows, so that a small tensor has many."""
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", 24)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=["f32", "f16", "bf16"])
def test_without_an_adapter_values_are_the_bases(dtype: torch.dtype, tmp_path: Path, small_blocks: None) -> None:
    weight = random(10, 8).to(dtype)
    with MergedTensors(checkpoint(tmp_path, {"w": weight}), None) as merged:
        assert torch.equal(merged.whole("w"), weight.to(merged.dtype("w")))
        assert merged.dtype("w") is (torch.float32 if dtype is torch.bfloat16 else dtype)
        assert merged.shape("w") == (10, 8)


@pytest.mark.parametrize("transposed", [False, True], ids=["linear", "fan-in-fan-out"])
def test_the_update_is_pefts(transposed: bool, tmp_path: Path, small_blocks: None) -> None:
    """W + scale * (B @ A), with the product transposed where the base holds (in, out)."""
    weight = random(7, 12).to(torch.bfloat16)
    rows, columns = (12, 7) if transposed else (7, 12)
    a, b = random(4, columns, seed=1), random(rows, 4, seed=2)
    lora = adapter(tmp_path / "lora", {"w": (a, b)}, scale=0.75, transposed=transposed)
    delta = (b.double() @ a.double()) * 0.75
    expected = weight.double() + (delta.T if transposed else delta)
    with MergedTensors(checkpoint(tmp_path / "base", {"w": weight}), lora) as merged:
        found = merged.whole("w")
    assert found.dtype is torch.float32
    assert torch.allclose(found.double(), expected, rtol=1e-6, atol=1e-6)


def test_a_zero_adapter_is_the_identity(tmp_path: Path) -> None:
    weight = random(5, 6).to(torch.bfloat16)
    lora = adapter(tmp_path / "lora", {"w": (random(2, 6), torch.zeros(5, 2))}, scale=3.0)
    with MergedTensors(checkpoint(tmp_path / "base", {"w": weight}), lora) as merged:
        assert torch.equal(merged.whole("w"), weight.float())


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(factor=st.sampled_from([-4.0, -1.0, 0.5, 2.0, 8.0]))
def test_the_update_is_linear_in_the_scale(factor: float, tmp_path: Path) -> None:
    """Powers of two scale every float exactly, so the law holds to the bit on a base of zeros."""
    base = checkpoint(tmp_path / "base", {"w": torch.zeros(5, 6)})
    lora = adapter(tmp_path / "lora", {"w": (random(2, 6, seed=1), random(5, 2, seed=2))}, scale=1.0)
    scaled = dataclasses.replace(lora, updates=tuple(dataclasses.replace(pair, scale=factor) for pair in pairs(lora)))
    with MergedTensors(base, lora) as once, MergedTensors(base, scaled) as more:
        assert torch.equal(more.whole("w"), once.whole("w") * factor)


def test_rows_are_the_same_bits_as_the_whole(tmp_path: Path, small_blocks: None) -> None:
    base = checkpoint(tmp_path / "base", {"w": random(11, 8)})
    lora = adapter(tmp_path / "lora", {"w": (random(3, 8, seed=1), random(11, 3, seed=2))})
    with MergedTensors(base, lora) as merged:
        blocks = [merged.rows("w", first, end) for first, end in row_blocks(11, 8)]
        assert len(blocks) == 4
        assert torch.equal(torch.cat(blocks), merged.whole("w"))


def test_vectors_scalars_stacks_and_integers_are_read(tmp_path: Path) -> None:
    tensors = {"v": random(5), "s": torch.tensor(2.5), "t": random(2, 3, 4), "i": torch.arange(6).reshape(2, 3)}
    with MergedTensors(checkpoint(tmp_path, tensors), None) as merged:
        for name, tensor in tensors.items():
            assert torch.equal(merged.whole(name), tensor), name
        assert merged.dtype("i") is torch.int64
    assert matrix_shape(()) == (1, 1)
    assert matrix_shape((5,)) == (1, 5)
    assert matrix_shape((2, 3, 4)) == (6, 4)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf], ids=["nan", "inf", "minus-inf"])
def test_what_is_not_finite_is_blamed_on_its_file(bad: float, tmp_path: Path) -> None:
    weight = random(4, 6)
    a, b = random(2, 6, seed=1), random(4, 2, seed=2)
    poisoned = weight.clone()
    poisoned[2, 3] = bad
    clean = checkpoint(tmp_path / "base", {"w": weight})
    lora = adapter(tmp_path / "lora", {"w": (a, b)})
    with (
        MergedTensors(checkpoint(tmp_path / "bad", {"w": poisoned}), lora) as merged,
        pytest.raises(InputInvalid, match=r"bad/model\.safetensors: tensor w "),
    ):
        merged.rows("w", 0, 4)
    a[0, 0] = bad
    with (
        pytest.raises(InputInvalid, match=r"bad-lora/adapter_model\.safetensors: tensor w\.lora_A "),
        MergedTensors(clean, adapter(tmp_path / "bad-lora", {"w": (a, b)})),
    ):
        pass


def test_a_sum_that_overflows_is_blamed_on_the_merge(tmp_path: Path) -> None:
    largest = torch.full((2, 2), torch.finfo(torch.float32).max)
    lora = adapter(tmp_path / "lora", {"w": (torch.eye(2), largest.clone())})
    with (
        MergedTensors(checkpoint(tmp_path / "base", {"w": largest}), lora) as merged,
        pytest.raises(InputInvalid, match="merged tensor w"),
    ):
        merged.rows("w", 0, 2)


def test_pairs_that_cannot_be_merged_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base", {"i": torch.ones(4, 4, dtype=torch.int8), "v": random(4)})
    for name in ("i", "v"):
        lora = adapter(tmp_path / f"lora-{name}", {name: (random(2, 4), random(4, 2))})
        with pytest.raises(Unsupported, match=f"cannot merge into {name}"):
            MergedTensors(base, lora)
    with pytest.raises(InputInvalid, match="adapts missing"):
        MergedTensors(base, adapter(tmp_path / "lora", {"missing": (random(2, 4), random(4, 2))}))


def test_a_file_that_is_gone_or_short_is_named(tmp_path: Path) -> None:
    base = checkpoint(tmp_path, {"w": random(64, 64)})
    file = tmp_path / "model.safetensors"
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size - 4)
    with MergedTensors(base, None) as merged, pytest.raises(InputInvalid, match="ends inside tensor w"):
        merged.whole("w")
    file.unlink()
    with pytest.raises(InputInvalid, match="No such file"), MergedTensors(base, None):
        pass


def test_blocks_cover_every_row_once() -> None:
    assert rows_per_block(0) == rows_per_block(1) == module.BLOCK_ELEMENTS
    assert rows_per_block(10**12) == 1
    found = [row for first, end in row_blocks(1000, module.BLOCK_ELEMENTS // 7) for row in range(first, end)]
    assert found == list(range(1000))
    assert list(row_blocks(0, 5)) == []


def test_torch_has_its_threads_back_afterwards() -> None:
    before = torch.get_num_threads()
    with single_threaded_torch():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_finite_and_bytes() -> None:
    assert is_finite(torch.empty(0))
    assert is_finite(torch.tensor([1, 2]))
    assert is_finite(torch.tensor([1.0]).to(torch.float8_e4m3fn))
    assert not is_finite(torch.tensor([1.0, math.nan], dtype=torch.bfloat16))
    assert bytes(byte_view(torch.tensor([1.0], dtype=torch.float16))) == b"\x00\x3c"
