"""Laws of the merge on random shapes, with torch in float64 as the reference."""

from __future__ import annotations

import dataclasses
import math
import re
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from packager.artifacts import Adapter, Checkpoint
from packager.errors import InputInvalid
from packager.formats.gguf import GgmlType
from packager.weights import merged as module
from packager.weights.kernels import convert_rows
from packager.weights.merged import MergedTensors, row_blocks
from tests.weights.made_checkpoints import adapter, checkpoint

BLOCK = 24
EPSILON = torch.finfo(torch.float32).eps
FLOATS = [torch.float32, torch.float16, torch.bfloat16]
LAW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
FACTORS = st.floats(-8, 8, width=32)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few rows, so that a small tensor has many."""
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", BLOCK)


@dataclasses.dataclass(frozen=True)
class Case:
    """A base matrix and an update for it; A and B fit a linear layer, or its transpose."""

    weight: torch.Tensor
    a: torch.Tensor
    b: torch.Tensor
    transposed: bool

    def files(self, folder: Path, scale: float) -> tuple[Checkpoint, Adapter]:
        lora = adapter(folder / "lora", {"w": (self.a, self.b)}, scale=scale, transposed=self.transposed)
        return checkpoint(folder / "base", {"w": self.weight}), lora

    def merged(self, folder: Path, scale: float) -> torch.Tensor:
        with MergedTensors(*self.files(folder, scale)) as opened:
            return opened.whole("w")

    def delta(self) -> torch.Tensor:
        product = self.b.double() @ self.a.double()
        return product.T if self.transposed else product

    def tolerance(self, scale: float) -> torch.Tensor:
        """The most that float32 can lose: once per term of the sum, in the scaling and in the addition."""
        terms = self.b.double().abs() @ self.a.double().abs()
        terms = terms.T if self.transposed else terms
        return EPSILON * (self.weight.double().abs() + (len(self.a) + 3) * abs(scale) * terms) + 1e-37


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Columns around the size of a block (one row too wide for it, too) and rows that it does not divide."""
    rows, columns = draw(st.integers(1, 13)), draw(st.integers(1, BLOCK + 2))
    rank, transposed = draw(st.integers(1, 5)), draw(st.booleans())
    base, lora = draw(st.sampled_from(FLOATS)), draw(st.sampled_from(FLOATS))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    outputs, inputs = (columns, rows) if transposed else (rows, columns)
    return Case(
        weight=torch.randn(rows, columns, generator=generator).to(base),
        a=torch.randn(rank, inputs, generator=generator).to(lora),
        b=torch.randn(outputs, rank, generator=generator).to(lora),
        transposed=transposed,
    )


def bits(tensor: torch.Tensor) -> list[int]:
    assert tensor.dtype is torch.float32
    return tensor.contiguous().view(torch.int32).flatten().tolist()


@LAW
@given(case=cases(), scale=FACTORS)
def test_the_sum_is_that_of_float64_to_rounding(case: Case, scale: float, tmp_path: Path) -> None:
    found = case.merged(tmp_path, scale)
    expected = case.weight.double() + scale * case.delta()
    assert found.shape == case.weight.shape
    assert bool(((found.double() - expected).abs() <= case.tolerance(scale)).all())


@LAW
@given(case=cases(), scale=FACTORS)
def test_a_zero_b_or_a_zero_scale_is_the_identity_bit_for_bit(case: Case, scale: float, tmp_path: Path) -> None:
    zero_b = dataclasses.replace(case, b=torch.zeros_like(case.b))
    assert bits(zero_b.merged(tmp_path, scale)) == bits(case.weight.float())
    assert bits(case.merged(tmp_path, 0.0)) == bits(case.weight.float())


@LAW
@given(case=cases(), one=FACTORS, other=FACTORS)
def test_the_merge_is_linear_in_the_scale(case: Case, one: float, other: float, tmp_path: Path) -> None:
    """merge(s + t) - merge(s) is merge(t) - merge(0)."""
    both, first, second, none = (case.merged(tmp_path, scale).double() for scale in (one + other, one, other, 0.0))
    tolerance = sum(case.tolerance(scale) for scale in (one + other, one, other, 0.0))
    assert bool((((both - first) - (second - none)).abs() <= tolerance).all())


@LAW
@given(case=cases(), scale=FACTORS, backwards=st.booleans())
def test_blocks_in_any_order_are_the_bits_of_the_whole(
    case: Case, scale: float, backwards: bool, tmp_path: Path
) -> None:
    ranges = list(row_blocks(*case.weight.shape))
    with MergedTensors(*case.files(tmp_path, scale)) as opened:
        read = {span: opened.rows("w", *span) for span in (reversed(ranges) if backwards else ranges)}
        assert all(len(block) == end - first for (first, end), block in read.items())
        assert bits(torch.cat([read[span] for span in ranges])) == bits(opened.whole("w"))


def test_a_transposed_blocks_memory_is_what_the_kernels_read(tmp_path: Path) -> None:
    """They take rows one after the other in memory, and a transposed product has them the other way round."""
    import numpy as np

    weight, a, b = torch.zeros(3, 8), torch.arange(3.0).reshape(1, 3), torch.arange(8.0).reshape(8, 1)
    with MergedTensors(*Case(weight=weight, a=a, b=b, transposed=True).files(tmp_path, 1.0)) as opened:
        data = convert_rows(opened.rows("w", 0, 3), [GgmlType.F16], "w")[GgmlType.F16]
    assert bytes(data) == np.outer(np.arange(3), np.arange(8)).astype(np.float16).tobytes()


@pytest.mark.parametrize("transposed", [False, True], ids=["linear", "fan-in-fan-out"])
@pytest.mark.parametrize("part", ["w", "w.lora_A", "w.lora_B"], ids=["base", "a", "b"])
def test_a_nan_is_blamed_on_the_tensor_that_has_it(part: str, transposed: bool, tmp_path: Path) -> None:
    """The last value is poisoned, in the last of several blocks: an adapter's at once, a base's when it is read."""
    tensors = {"w": torch.ones(6, 6), "w.lora_A": torch.ones(2, 6), "w.lora_B": torch.ones(6, 2)}
    clean = {name: tensor.clone() for name, tensor in tensors.items()}
    tensors[part][-1, -1] = math.nan
    base = checkpoint(tmp_path / "base", {"w": tensors["w"], "clean": clean["w"]})
    pairs = {"w": (tensors["w.lora_A"], tensors["w.lora_B"]), "clean": (clean["w.lora_A"], clean["w.lora_B"])}
    lora = adapter(tmp_path / "lora", pairs, transposed=transposed)
    file = tmp_path / ("base/model.safetensors" if part == "w" else "lora/adapter_model.safetensors")
    blamed = f"^{re.escape(f'{file}: tensor {part} ')}has a value that is not finite"
    with ExitStack() as stack:
        if part != "w":
            with pytest.raises(InputInvalid, match=blamed):
                stack.enter_context(MergedTensors(base, lora))
            return
        opened = stack.enter_context(MergedTensors(base, lora))
        assert torch.equal(opened.whole("clean"), torch.full((6, 6), 3.0))
        with pytest.raises(InputInvalid, match=blamed):
            opened.whole("w")
