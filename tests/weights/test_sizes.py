from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from packager.artifacts import Checkpoint, Quant, TensorEntry
from packager.formats.gguf import GgmlType, padded, tensor_bytes
from packager.weights.sizes import estimated_sizes
from packager.weights.tensor_types import ModelFacts, llama_order, quant_types
from tests.weights.made_checkpoints import checkpoint

MIXTURES = [Quant.Q8_0, Quant.Q5_K_M, Quant.Q4_K_M, Quant.IQ4_XS, Quant.Q3_K_L, Quant.IQ3_M, Quant.Q2_K, Quant.TQ1_0]
# Hugging Face name to GGUF name, as gguf-py maps them for llama
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
}


def large(tmp_path: Path, *, hidden: int, inner: int, layers: int, tied: bool) -> Checkpoint:
    """A model that exists as names and shapes only."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (32000, hidden), "model.norm.weight": (hidden,)}
    if not tied:
        shapes["lm_head.weight"] = (32000, hidden)
    for layer in range(layers):
        for name in NAMES:
            shape: tuple[int, ...] = (inner, hidden) if name.startswith("mlp") else (hidden, hidden)
            shape = (hidden, inner) if "down" in name else (hidden,) if "norm" in name else shape
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
    file = tmp_path / "model.safetensors"
    tensors = tuple(
        TensorEntry(name=name, dtype="BF16", shape=shape, file=file, offset=0, size_bytes=0)
        for name, shape in sorted(shapes.items())
    )
    import torch

    base = checkpoint(tmp_path, {"x": torch.ones(1)}, layers=layers, vocab_size=32000)
    return dataclasses.replace(base, tensors=tensors)


def gguf_tensors(base: Checkpoint) -> list[tuple[str, tuple[int, ...], GgmlType]]:
    fixed = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    found = []
    for tensor in base.tensors:
        parts = tensor.name.split(".")
        name = fixed.get(tensor.name) or f"blk.{parts[2]}.{NAMES['.'.join(parts[3:-1])]}.weight"
        found.append((name, tensor.shape, GgmlType.F32))
    return sorted(found, key=lambda item: llama_order(item[0]))


@pytest.mark.parametrize("quant", MIXTURES, ids=[quant.value for quant in MIXTURES])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize(
    ("hidden", "inner", "layers"),
    [
        pytest.param(2048, 8192, 16, id="1b"),
        pytest.param(896, 4864, 24, id="rows-256-does-not-divide"),
        pytest.param(4096, 11008, 32, id="7b"),
    ],
)
def test_sizes_follow_the_types_llama_cpp_chooses(
    hidden: int, inner: int, layers: int, tied: bool, quant: Quant, tmp_path: Path
) -> None:
    base = large(tmp_path, hidden=hidden, inner=inner, layers=layers, tied=tied)
    facts = ModelFacts(
        architecture="llama", embedding=hidden, feed_forward=inner, layers=layers, heads=16, heads_kv=16, experts=0,
        head_k=hidden // 16, head_v=hidden // 16,
    )  # fmt: skip
    listed = gguf_tensors(base)
    types = quant_types(facts, listed, quant)
    expected = sum(padded(tensor_bytes(shape, types[name])) for name, shape, _ in listed)
    ((_, found),) = estimated_sizes(base, (quant,))
    assert found == pytest.approx(expected, rel=0.01)


def test_a_vocabulary_is_counted_and_guessed_where_it_cannot_be(tmp_path: Path) -> None:
    base = large(tmp_path, hidden=256, inner=256, layers=1, tied=True)
    ((_, guessed),) = estimated_sizes(base, (Quant.F16,))
    vocabulary = {f"token{number:07d}": number for number in range(32000)}
    merges = [["tok", "en"]] * 1000 + ["to k"] * 1000
    tokenizer = {"model": {"vocab": vocabulary, "merges": merges}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    ((_, counted),) = estimated_sizes(base, (Quant.F16,))
    # tokens: 12 letters, length, type; merges: their text with one blank, length
    assert counted - guessed == 32000 * (12 + 8 + 4) + 1000 * (5 + 9) + 1000 * (4 + 9) - 20 * 32000
    for damaged in ("[]", "{", '{"model": 1}', '{"model": {"vocab": []}}'):
        (tmp_path / "tokenizer.json").write_text(damaged)
        assert estimated_sizes(base, (Quant.F16,)) == ((Quant.F16, guessed),)
