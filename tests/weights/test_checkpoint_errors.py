from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from packager.artifacts import Adapter, Checkpoint
from packager.weights.checkpoint_errors import checkpoint_errors
from packager.weights.tensor_errors import TensorComparison
from tests.weights.made_checkpoints import adapter, checkpoint

SHAPES = {
    "model.embed_tokens.weight": (16, 64),
    "model.layers.0.q.weight": (64, 64),
    "model.layers.1.q.weight": (64, 64),
}
ADAPTED = ("model.layers.0.q.weight", "model.layers.1.q.weight")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return {name: random(*shape) for name, shape in SHAPES.items()}


@pytest.fixture(scope="module")
def pairs() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    return {name: (random(4, 64) * 0.1, random(64, 4) * 0.1) for name in ADAPTED}


@pytest.fixture(scope="module")
def base(weights: Mapping[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return checkpoint(tmp_path_factory.mktemp("base"), weights)


@pytest.fixture(scope="module")
def lora(pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]], tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    return adapter(tmp_path_factory.mktemp("lora"), pairs, scale=2.0)


def merged(
    weights: Mapping[str, torch.Tensor], pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]], scale: float
) -> dict[str, torch.Tensor]:
    updates = {name: scale * (b @ a) for name, (a, b) in pairs.items()}
    return {name: weight + updates.get(name, 0.0) for name, weight in weights.items()}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_merged_checkpoint_has_no_fault_in_any_float_type(
    dtype: torch.dtype,
    base: Checkpoint,
    lora: Adapter,
    weights: dict[str, torch.Tensor],
    pairs: dict[str, tuple[torch.Tensor, torch.Tensor]],
    tmp_path: Path,
) -> None:
    stored = {name: value.to(dtype) for name, value in merged(weights, pairs, 2.0).items()}
    found = checkpoint_errors(checkpoint(tmp_path, stored), base, lora)
    assert found == TensorComparison(
        tensors=found.tensors, faults=(), missing=(), unexpected=(), reshaped=(), unread=()
    )
    assert [error.tensor for error in found.tensors] == sorted(SHAPES)
    assert [error.layer for error in found.tensors] == [None, 0, 1]
    unit = {torch.float32: 1e-6, torch.bfloat16: 2**-9, torch.float16: 2**-12}[dtype]
    assert all(error.relative_error < 1.2 * unit for error in found.tensors)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("scale", "said"),
    [(0.0, "the adapter's update is missing"), (4.0, "the adapter's update is there 2.00 times")],
    ids=["unmerged", "twice"],
)
def test_another_scale_is_named(
    scale: float,
    said: str,
    dtype: torch.dtype,
    base: Checkpoint,
    lora: Adapter,
    weights: dict[str, torch.Tensor],
    pairs: dict[str, tuple[torch.Tensor, torch.Tensor]],
    tmp_path: Path,
) -> None:
    stored = {name: value.to(dtype) for name, value in merged(weights, pairs, scale).items()}
    found = checkpoint_errors(checkpoint(tmp_path, stored), base, lora)
    assert {fault.tensor: fault.text for fault in found.faults} == dict.fromkeys(ADAPTED, said)


def test_tensors_too_many_too_few_misshapen_and_of_no_float_type_are_told(
    base: Checkpoint, weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    stored = {
        "model.embed_tokens.weight": weights["model.embed_tokens.weight"][:8],
        "model.layers.0.q.weight": torch.zeros((64, 64), dtype=torch.int8),
        "model.layers.9.q.weight": weights["model.layers.1.q.weight"],
        "lm_head.weight": weights["model.embed_tokens.weight"].clone(),
    }
    theirs = checkpoint(tmp_path, stored)
    found = checkpoint_errors(theirs, base, None)
    assert found.missing == ("model.layers.1.q.weight",)
    assert found.unexpected == ("model.layers.9.q.weight",), "the embedding is tied: lm_head may be there"
    assert found.reshaped == ("model.embed_tokens.weight is (8, 64), not (16, 64)",)
    assert found.unread == ("model.layers.0.q.weight (I8)",)
    untied = replace(base, ties_embeddings=False)
    assert set(checkpoint_errors(theirs, untied, None).unexpected) == {"model.layers.9.q.weight", "lm_head.weight"}
