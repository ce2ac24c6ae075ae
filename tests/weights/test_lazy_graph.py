"""Rows computed from a lazy graph are bit for bit those of the whole tensor, evaluated by llama.cpp's own lazy classes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from packager.formats.checkpoint import read_checkpoint
from packager.sources.llama_cpp_tree import LlamaCppTree
from packager.weights import computed_rows as computed_module
from packager.weights import converter as converter_module
from packager.weights import merged as merged_module
from packager.weights.computed_rows import ComputedRows
from packager.weights.converter import Conversion
from packager.weights.converter_modules import converter_modules
from packager.weights.lazy_graph import StoredTensor, lazy_graph, whole_parts
from packager.weights.merged import MergedTensors, matrix_shape, row_blocks, rows_per_block
from packager.weights.row_graph import Node
from packager.weights.slabs import SlabCache
from tests.weights.made_checkpoints import adapter, checkpoint

Op = Callable[[Any], Any]


def own(w: Any, tensor: torch.Tensor) -> Any:
    """A tensor that the converter made itself, lazy where `w` is."""
    return tensor if isinstance(w, torch.Tensor) else type(w).from_eager(tensor)


def interleaved(w: Any) -> Any:
    return w.reshape(2, 2, w.shape[0] // 2 // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


UNDERSTOOD: dict[str, Op] = {
    "as it is": lambda w: w,
    "rotary halves interleaved": lambda w: w.reshape(3, 2, 4, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape),
    "transposed": lambda w: w.T,
    "transposed twice by name": lambda w: torch.transpose(w, 0, 1).transpose(-1, -2),
    "slices": lambda w: w[3:21:2, 1:],
    "an index, a new dimension": lambda w: w.view(6, 4, 10)[:, 2].unsqueeze(1),
    "a list of one index": lambda w: w.view(6, 4, 10)[:, [-1]].reshape(6, 10),
    "chunks": lambda w: torch.cat([part + 1 for part in w.chunk(3, dim=0)], dim=1),
    "split": lambda w: w.split([5, 7, 12])[1],
    "unbound and stacked": lambda w: torch.stack(list(w.view(4, 6, 10).unbind(1)), dim=2),
    "stacked in front": lambda w: torch.stack([w, w * 2, -w]),
    "permuted": lambda w: w.reshape(2, 3, 4, 10).permute(3, 1, 0, 2).contiguous(),
    "squeezed": lambda w: w[:1].squeeze(),
    "narrowed": lambda w: w.narrow(0, 4, 11).flatten(),
    "shifted and scaled": lambda w: (w.float() + 1) * 0.1 / 3 - 2,
    "scaled by rows": lambda w: w * w[:, :1],
    "half": lambda w: w.to(torch.float16),
    "with a tensor of the converter": lambda w: torch.cat([w, own(w, torch.full((2, 10), 7.0))]),
    "q, k, v of GPT-NeoX": lambda w: torch.cat([w.reshape(2, 3, 4, 10)[:, n].reshape(8, 10) for n in range(3)], dim=0),
    "q of InternLM2": lambda w: interleaved(w.reshape(2, 3, 4, 10)[:, :-2].reshape(8, 10)),
}
NOT_UNDERSTOOD: dict[str, Op] = {
    "a function": torch.exp,
    "rows by number": lambda w: w[[3, 1, 2]],
    "flipped": lambda w: w.flip(0),
    "again and again": lambda w: w[:1].expand(5, 10),
    "a sum": lambda w: w.sum(dim=1),
    "sorted": lambda w: w.sort(dim=0)[0],
    "in place": lambda w: w.reshape(-1).add_(1),
}


@pytest.fixture
def merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MergedTensors]:
    """One tensor with an update, of several blocks."""
    monkeypatch.setattr(merged_module, "BLOCK_ELEMENTS", 70)
    monkeypatch.setattr(computed_module, "SLAB_ELEMENTS", 150)
    torch.manual_seed(0)
    update = adapter(tmp_path / "lora", {"w": (torch.randn(2, 10), torch.randn(24, 2))})
    with MergedTensors(checkpoint(tmp_path, {"w": torch.randn(24, 10)}), update) as merged:
        yield merged


def lazy_tensor(merged: MergedTensors) -> Any:
    lazy_class = sys.modules["conversion"].LazyTorchTensor
    meta = lazy_class.meta_with_dtype_and_shape(merged.dtype("w"), merged.shape("w"))
    return lazy_class(meta=meta, args=(StoredTensor(merged, "w"),), func=lambda stored: stored.whole())


def evaluated(lazy: Any) -> torch.Tensor:
    return torch.as_tensor(type(lazy).to_eager(lazy))


def assert_every_row(node: Node, expected: torch.Tensor) -> ComputedRows:
    reader = ComputedRows("w", node, SlabCache(limit_bytes=1000))
    rows, columns = matrix_shape(tuple(expected.shape))
    found = [reader.rows(first, end) for first, end in row_blocks(rows, columns)]
    assert node.shape == tuple(expected.shape)
    assert torch.cat(found).numpy().tobytes() == expected.float().contiguous().numpy().tobytes()
    assert all(block.is_contiguous() and block.dtype is torch.float32 for block in found)
    return reader


@pytest.mark.parametrize("name", [*UNDERSTOOD, *NOT_UNDERSTOOD])
def test_an_operation_in_rows_is_the_operation(name: str, merged: MergedTensors, tree: LlamaCppTree) -> None:
    operation = (UNDERSTOOD | NOT_UNDERSTOOD)[name]
    with converter_modules(tree), torch.inference_mode():
        node = lazy_graph(operation(lazy_tensor(merged)).numpy().astype(np.float32), evaluated, SlabCache())
        assert_every_row(node, operation(merged.whole("w")))
    assert bool(whole_parts(node)) == (name in NOT_UNDERSTOOD)


def test_few_elements_are_read_in_vain(
    merged: MergedTensors, tree: LlamaCppTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transposed tensor needs all of the merged one for each of its rows; so many rows are made at once."""
    read: list[int] = []
    rows = merged.rows
    monkeypatch.setattr(merged, "rows", lambda name, first, end: read.append(end - first) or rows(name, first, end))  # type: ignore[func-returns-value]
    with converter_modules(tree), torch.inference_mode():
        node = lazy_graph(lazy_tensor(merged).T.numpy().astype(np.float32), evaluated, SlabCache())
        expected = merged.whole("w").T
        read.clear()
        reader = assert_every_row(node, expected)
    assert reader.whole_bytes == 0
    assert sum(read) == 24 * 3  # slabs of 4 rows, of 10


def test_what_falls_into_too_many_pieces_is_made_whole(
    merged: MergedTensors, tree: LlamaCppTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("packager.weights.row_graph.MAX_RUNS", 5)

    def scattered(w: Any) -> Any:
        return w.reshape(12, 20).T

    with converter_modules(tree), torch.inference_mode():
        node = lazy_graph(scattered(lazy_tensor(merged)).numpy().astype(np.float32), evaluated, SlabCache())
        reader = assert_every_row(node, scattered(merged.whole("w")))
    assert reader.whole_bytes == 12 * 20 * 4


SIZES = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 300,
    "max_position_embeddings": 512, "num_key_value_heads": 2,
}  # fmt: skip
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 48}
LATENT = {
    "num_key_value_heads": 4, "n_routed_experts": 4, "n_shared_experts": 1, "kv_lora_rank": 32, "q_lora_rank": 24,
    "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16, "first_k_dense_replace": 1,
}  # fmt: skip
OLD = {"n_ctx": 64}
# Architecture: configuration, what it sets, and a GGUF tensor that is computed.
ARCHITECTURES = {
    "LlamaForCausalLM": ("LlamaConfig", SIZES, "blk.1.attn_q.weight"),
    "MixtralForCausalLM": ("MixtralConfig", SIZES | {"num_local_experts": 4}, "blk.1.ffn_down_exps.weight"),
    "Qwen3MoeForCausalLM": (
        "Qwen3MoeConfig", SIZES | EXPERTS | {"num_experts": 4, "head_dim": 16}, "blk.1.ffn_gate_exps.weight",
    ),
    "Gemma2ForCausalLM": ("Gemma2Config", SIZES | {"head_dim": 16}, "blk.0.attn_norm.weight"),
    "FalconForCausalLM": (
        "FalconConfig", SIZES | {"new_decoder_architecture": True, "num_kv_heads": 2}, "blk.0.attn_qkv.weight",
    ),
    "DeepseekV2ForCausalLM": ("DeepseekV2Config", SIZES | EXPERTS | LATENT, "blk.1.attn_k_b.weight"),
    "GPT2LMHeadModel": (
        "GPT2Config", {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 300} | OLD, "blk.0.attn_qkv.weight",
    ),
    "Llama4ForCausalLM": (
        "Llama4TextConfig", SIZES | {"head_dim": 16, "num_local_experts": 4, "intermediate_size_mlp": 96},
        "blk.0.ffn_up_exps.weight",
    ),
}  # fmt: skip


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_tensor_of_an_architecture_is_what_it_is_whole(
    architecture: str, tree: LlamaCppTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of what converters do to tensors here is understood, with blocks so small that every tensor has several."""
    name, settings, computed = ARCHITECTURES[architecture]
    make_checkpoint(architecture, name, settings, tmp_path)
    monkeypatch.setattr(merged_module, "BLOCK_ELEMENTS", 512)
    monkeypatch.setattr(computed_module, "SLAB_ELEMENTS", 4096)
    lazies: dict[Node, Any] = {}

    def noted(lazy: Any, evaluate: Any, cache: SlabCache) -> Node:
        node = lazy_graph(lazy, evaluate, cache)
        lazies[node] = lazy
        return node

    monkeypatch.setattr(converter_module, "lazy_graph", noted)
    with torch.inference_mode(), MergedTensors(read_checkpoint(tmp_path), None) as merged:
        conversion = Conversion(read_checkpoint(tmp_path), merged, tree)
        found = {tensor.name: tensor for tensor in conversion.tensors}
        assert found[computed].source is None
        assert rows_per_block(64) < 64
        for tensor in conversion.tensors:
            assert whole_parts(tensor.graph) == ()
            with converter_modules(tree):
                expected = evaluated(lazies[tensor.graph])
            assert_every_row(tensor.graph, expected)


def make_checkpoint(architecture: str, config: str, settings: dict[str, Any], folder: Path) -> None:
    import transformers

    torch.manual_seed(0)
    model = getattr(transformers, architecture)(getattr(transformers, config)(**settings)).to(torch.bfloat16)
    for parameter in model.parameters():
        parameter.data.normal_()
    model.save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**OLD, **written, "architectures": [architecture]}))
