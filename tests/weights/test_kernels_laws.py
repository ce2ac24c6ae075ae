"""Laws of every block type that a quant may hold, with gguf-py and numpy as the reference."""

from __future__ import annotations

from collections.abc import Callable

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from packager.errors import InputInvalid
from packager.formats.gguf import GGML_TYPE_SIZES, GgmlType
from packager.weights.kernels import convert_rows

Array = NDArray[np.float32]

# The largest distance of a value from what is stored, in steps: half a step by rounding, and what the type adds to it.
# Q5_0 gives -16..15 to a symmetric range, so one end is a step short; the K types search for the least square error
# and round their scales once more, to 6 or 8 bits of the super-block's largest.
STEPS: dict[GgmlType, tuple[float, Callable[[Array], Array]]] = {
    GgmlType.Q8_0: (0.57, lambda x: np.abs(x).max(1) / 127),
    GgmlType.Q5_0: (1.02, lambda x: np.abs(x).max(1) / 16),
    GgmlType.Q5_1: (0.55, lambda x: (x.max(1) - x.min(1)) / 31),
    GgmlType.Q4_K: (1.25, lambda x: (np.maximum(x.max(1), 0) - np.minimum(x.min(1), 0)) / 15),
    GgmlType.Q5_K: (1.25, lambda x: (np.maximum(x.max(1), 0) - np.minimum(x.min(1), 0)) / 31),
    GgmlType.Q6_K: (1.25, lambda x: np.abs(x).max(1) / 32),
}
KINDS = pytest.mark.parametrize("kind", list(STEPS), ids=[kind.name for kind in STEPS])
LAW = settings(max_examples=25, deadline=None)


def random(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def dequantized(data: memoryview, rows: int, kind: GgmlType) -> Array:
    raw = np.frombuffer(data, np.uint8).reshape(rows, -1)
    return gguf.quants.dequantize(raw, gguf.GGMLQuantizationType(int(kind)))


@KINDS
@LAW
@given(seed=st.integers(0, 2**16), exponent=st.integers(-6, 8), power=st.sampled_from([1, 3]))
def test_no_value_is_further_away_than_its_blocks_step(kind: GgmlType, seed: int, exponent: int, power: int) -> None:
    block = random(3, 512, seed) ** power * 2.0**exponent
    found = dequantized(convert_rows(block, [kind], "w")[kind], 3, kind)
    most, step = STEPS[kind]
    elements = GGML_TYPE_SIZES[kind][0]
    values = block.numpy().reshape(-1, elements)
    distance = np.abs(found.reshape(-1, elements) - values).max(1)
    assert (distance <= most * step(values)).all(), (distance / step(values)).max()


@pytest.mark.parametrize("kind", [GgmlType.F32, GgmlType.F16, *STEPS], ids=lambda kind: kind.name)
@LAW
@given(cuts=st.sets(st.integers(1, 6)), seed=st.integers(0, 2**16))
def test_where_rows_are_cut_changes_no_byte(kind: GgmlType, cuts: set[int], seed: int) -> None:
    block = random(7, 256, seed)
    parts = torch.tensor_split(block, sorted(cuts))
    assert b"".join(bytes(convert_rows(part, [kind], "w")[kind]) for part in parts) == bytes(
        convert_rows(block, [kind], "w")[kind]
    )


@LAW
@given(values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_float32_is_passed_through_to_the_bit(values: list[float]) -> None:
    array = np.array([values], np.float32)
    data = convert_rows(torch.from_numpy(array.copy()), [GgmlType.F32], "w")[GgmlType.F32]
    assert bytes(data) == array.tobytes()


def test_every_float16_and_every_tie_between_two_is_rounded_as_numpy_rounds() -> None:
    """All positive float16 values and the points half-way between neighbours, subnormal ones included."""
    exact = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    array = np.concatenate([exact, (exact[1:] + exact[:-1]) / 2])[None]
    for signed in (array, -array):
        data = convert_rows(torch.from_numpy(signed), [GgmlType.F16], "w")[GgmlType.F16]
        assert bytes(data) == signed.astype(np.float16).tobytes()


@KINDS
@pytest.mark.parametrize("sign", [1, -1], ids=["above", "below"])
def test_a_scale_that_float16_does_not_hold_is_refused_wherever_it_is(kind: GgmlType, sign: int) -> None:
    block = random(3, 512)
    block[2, 511] = sign * 1e9
    with pytest.raises(InputInvalid, match=f"tensor w has values too large for {kind.name}"):
        convert_rows(block, [kind], "w")


def test_a_value_no_block_can_hold_is_refused_where_llama_cpp_writes_zeros() -> None:
    block = torch.ones(1, 256)
    block[0, 7] = 1e20
    with pytest.raises(InputInvalid, match="too large for Q6_K"):
        convert_rows(block, [GgmlType.Q6_K], "w")
