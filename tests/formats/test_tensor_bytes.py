from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from packager.artifacts import TensorEntry
from packager.formats import tensor_bytes
from packager.formats.safetensors import read_header
from packager.formats.tensor_bytes import is_transpose, same_values


def entry(path: Path, tensor: torch.Tensor) -> TensorEntry:
    save_file({"w": tensor.contiguous()}, path)
    return read_header(path)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["f32", "bf16", "f16"])
def test_a_copy_may_be_wider_and_must_be_equal(
    dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_bytes, "_CHUNK_BYTES", 16)
    values = torch.randn(5, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    original = entry(tmp_path / "original", values)
    changed = values.clone()
    changed[4, 5] += 1
    for kind in {dtype, torch.float32}:
        assert same_values(entry(tmp_path / "copy", values.to(kind)), original)
        assert not same_values(entry(tmp_path / "changed", changed.to(kind)), original)
    assert not same_values(entry(tmp_path / "turned", values.T), original)
    assert not same_values(entry(tmp_path / "double", values.double()), original)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["f32", "bf16", "f16"])
def test_a_transpose_is_told_from_the_matrix_itself(dtype: torch.dtype, tmp_path: Path) -> None:
    values = torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    matrix = entry(tmp_path / "matrix", values)
    assert is_transpose(entry(tmp_path / "turned", values.T), matrix)
    assert not is_transpose(matrix, matrix)
    assert not is_transpose(entry(tmp_path / "longer", torch.zeros(4, 3, dtype=dtype)), matrix)
    assert not is_transpose(entry(tmp_path / "double", values.T.double()), matrix)
