from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from packager.engines.transformers import Reference
from packager.errors import InputInvalid
from packager.formats.adapter import read_adapter
from packager.formats.checkpoint import read_checkpoint
from packager.weights.merge_proof import merged_logprobs
from tests.weights.made_checkpoints import pairs

IDS = (9707, 11, 1879, 0)


def test_merged_weights_give_what_unmerged_ones_give(
    tiny: Callable[[str], Path], tiny_lora: Callable[[str], Path]
) -> None:
    base = read_checkpoint(tiny("qwen3"))
    adapter = read_adapter(tiny_lora("qwen3"), base)
    unmerged, merged = merged_logprobs(base, adapter, "", IDS)
    assert unmerged.shape == (len(IDS), base.vocab_size)
    np.testing.assert_allclose(merged, unmerged, atol=1e-4)
    plain = Reference(base.folder, None, "").next_logprobs(IDS)
    assert np.abs(plain - unmerged).max() > 0.1, "the adapter does something"
    wrong = replace(adapter, updates=tuple(replace(pair, scale=2 * pair.scale) for pair in pairs(adapter)))
    assert np.abs(merged_logprobs(base, wrong, "", IDS)[1] - unmerged).max() > 0.1


@pytest.mark.parametrize(
    ("name", "shape"),
    [("model.layers.9.mlp.up_proj.weight", (256, 64)), ("model.layers.0.mlp.up_proj.weight", (64, 256))],
    ids=["no-such-weight", "another-shape"],
)
def test_a_weight_that_does_not_fit_is_refused(
    name: str, shape: tuple[int, int], tiny: Callable[[str], Path], tiny_lora: Callable[[str], Path]
) -> None:
    def weights() -> Iterator[tuple[str, torch.Tensor]]:
        yield name, torch.zeros(shape)

    lora = read_adapter(tiny_lora("qwen3"), read_checkpoint(tiny("qwen3")))
    with pytest.raises(InputInvalid, match=r"has no weight model\.layers\.\d\.mlp\.up_proj\.weight of shape"):
        Reference(tiny("qwen3"), None, "").put_merged(lora, weights())
