from __future__ import annotations

import pytest
import torch

from packager.errors import InputInvalid
from packager.formats.gguf import GGML_TYPE_SIZES, GgmlType
from packager.weights.kernels import can_round, convert_rows, is_coarse, read_rows

QUANTIZED = [GgmlType.Q8_0, GgmlType.Q5_0, GgmlType.Q4_0]  # the ones gguf-py can make, too
SUPER_BLOCKS = [GgmlType.Q4_K, GgmlType.Q5_K, GgmlType.Q6_K]


def random(rows: int, columns: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("kind", QUANTIZED, ids=lambda kind: kind.name)
def test_blocks_are_those_of_gguf_py(kind: GgmlType) -> None:
    import gguf

    block = random(5, 64)
    theirs = gguf.quants.quantize(block.numpy(), gguf.GGMLQuantizationType(int(kind)))
    assert bytes(convert_rows(block, [kind], "w")[kind]) == theirs.tobytes()


@pytest.mark.parametrize("kind", SUPER_BLOCKS, ids=lambda kind: kind.name)
def test_super_blocks_hold_nearly_the_same_values(kind: GgmlType) -> None:
    import gguf
    import numpy as np

    block = random(3, 512)
    raw = np.frombuffer(convert_rows(block, [kind], "w")[kind], np.uint8)
    found = gguf.quants.dequantize(raw.reshape(3, -1), gguf.GGMLQuantizationType(int(kind)))
    assert np.abs(found - block.numpy()).max() < 0.3


def test_floats_are_rounded_as_numpy_does() -> None:
    import numpy as np

    block = torch.tensor([[1.0 + 2**-11, 1.0 + 3 * 2**-11, 1e-8, -0.0, 65519.0]])
    found = convert_rows(block, [GgmlType.F16, GgmlType.F32], "w")
    assert bytes(found[GgmlType.F16]) == block.numpy().astype(np.float16).tobytes()
    assert bytes(found[GgmlType.F32]) == block.numpy().tobytes()


@pytest.mark.parametrize("kind", [GgmlType.Q8_0, GgmlType.Q4_K, GgmlType.Q6_K], ids=lambda kind: kind.name)
def test_the_size_of_a_block_changes_nothing(kind: GgmlType) -> None:
    block = random(6, 256)
    whole = bytes(convert_rows(block, [kind], "w")[kind])
    parts = [bytes(convert_rows(block[row : row + 1], [kind], "w")[kind]) for row in range(6)]
    assert b"".join(parts) == whole
    assert len(whole) == 6 * 256 // GGML_TYPE_SIZES[kind][0] * GGML_TYPE_SIZES[kind][1]


def test_what_float16_does_not_hold_is_refused() -> None:
    with pytest.raises(InputInvalid, match="tensor w has a value beyond 65520"):
        convert_rows(torch.tensor([[1.0, -65520.0]]), [GgmlType.F16], "w")
    with pytest.raises(InputInvalid, match="too large for Q8_0"):
        convert_rows(torch.full((1, 32), 1e9), [GgmlType.Q8_0], "w")
    assert convert_rows(torch.full((1, 32), 1e6), [GgmlType.Q8_0], "w")  # its scale still is a float16


FLOATS = [GgmlType.F32, GgmlType.F16, GgmlType.BF16]
OTHERS = [GgmlType.Q4_1, GgmlType.Q5_1, GgmlType.Q2_K, GgmlType.Q3_K, GgmlType.IQ4_NL, GgmlType.IQ4_XS, GgmlType.MXFP4]


@pytest.mark.parametrize("kind", [*FLOATS, *QUANTIZED, *SUPER_BLOCKS, *OTHERS], ids=lambda kind: kind.name)
def test_rows_are_read_as_gguf_py_reads_them(kind: GgmlType) -> None:
    import gguf
    import numpy as np

    raw = torch.frombuffer(convert_rows(random(3, 512), [kind], "w")[kind], dtype=torch.uint8)
    theirs = gguf.quants.dequantize(raw.numpy().reshape(3, -1), gguf.GGMLQuantizationType(int(kind)))
    found = read_rows(raw, kind, 3, 512).numpy()
    assert np.abs(found - theirs).max() <= 2e-6 * np.abs(theirs).max()  # sums in another order
    assert can_round(kind)


@pytest.mark.parametrize(
    "kind", [GgmlType.I32, GgmlType.F64, GgmlType.IQ2_XXS, GgmlType.IQ1_S], ids=lambda kind: kind.name
)
def test_integers_and_what_needs_an_importance_matrix_cannot_be_rounded_to(kind: GgmlType) -> None:
    assert not can_round(kind)


def test_types_below_eight_bits_are_coarse() -> None:
    assert {kind for kind in FLOATS + QUANTIZED + SUPER_BLOCKS if not is_coarse(kind)} == {*FLOATS, GgmlType.Q8_0}
