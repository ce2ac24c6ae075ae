from __future__ import annotations

import dataclasses

import pytest

from packager.artifacts import Quant
from packager.errors import Unsupported
from packager.formats.gguf import GgmlType
from packager.weights.llama_library import llama_library
from packager.weights.tensor_types import ModelFacts, llama_order, quant_types

FACTS = ModelFacts(
    architecture="llama",
    embedding=256,
    feed_forward=512,
    layers=16,
    heads=4,
    heads_kv=2,
    experts=0,
    head_k=64,
    head_v=64,
)
Listed = list[tuple[str, tuple[int, ...], GgmlType]]


def model(columns: int = 256, *, output: bool = True) -> Listed:
    tensors: Listed = [("token_embd.weight", (100, columns), GgmlType.F32)]
    tensors += [("output.weight", (100, columns), GgmlType.F32)] if output else []
    for layer in range(FACTS.layers):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_down", "ffn_up", "ffn_gate"):
            tensors.append((f"blk.{layer}.{name}.weight", (64, columns), GgmlType.F32))
        tensors.append((f"blk.{layer}.attn_norm.weight", (columns,), GgmlType.F32))
    return sorted(tensors, key=lambda tensor: llama_order(tensor[0]))


def test_order_is_by_block_number_then_name() -> None:
    names = ["blk.10.a", "output.weight", "blk.2.b", "blk.2.a", "blk.x", "token_embd.weight"]
    assert sorted(names, key=llama_order) == [
        "blk.x",
        "output.weight",
        "token_embd.weight",
        "blk.2.a",
        "blk.2.b",
        "blk.10.a",
    ]


def test_q8_0_is_q8_0_and_norms_stay() -> None:
    types = quant_types(FACTS, model(), Quant.Q8_0)
    assert {kind for name, kind in types.items() if not name.endswith("norm.weight")} == {GgmlType.Q8_0}
    assert types["blk.0.attn_norm.weight"] is GgmlType.F32


def test_q4_k_m_gives_more_bits_to_the_outer_layers() -> None:
    """With 16 layers: the first and last two, and every third in between (use_more_bits in llama-quant.cpp)."""
    types = quant_types(FACTS, model(), Quant.Q4_K_M)
    more = {layer for layer in range(16) if types[f"blk.{layer}.attn_v.weight"] is GgmlType.Q6_K}
    assert more == {0, 1, 4, 7, 10, 13, 14, 15}
    assert {layer for layer in range(16) if types[f"blk.{layer}.ffn_down.weight"] is GgmlType.Q6_K} == more
    assert types["output.weight"] is GgmlType.Q6_K
    assert types["token_embd.weight"] is GgmlType.Q4_K
    assert types["blk.0.attn_q.weight"] is GgmlType.Q4_K


def test_a_tied_embedding_is_an_output() -> None:
    assert quant_types(FACTS, model(output=False), Quant.Q4_K_M)["token_embd.weight"] is GgmlType.Q6_K


def test_rows_that_256_or_32_does_not_divide_fall_back() -> None:
    by_32 = quant_types(FACTS, model(64), Quant.Q4_K_M)
    assert by_32["blk.5.attn_q.weight"] is GgmlType.Q5_0
    assert by_32["blk.0.attn_v.weight"] is GgmlType.Q8_0
    assert quant_types(FACTS, model(40), Quant.Q4_K_M)["blk.5.attn_q.weight"] is GgmlType.F16


def test_layer_counts_that_would_abort_the_process_are_refused() -> None:
    for layers in (0, 513):
        with pytest.raises(Unsupported, match=f"{layers} layers"):
            quant_types(dataclasses.replace(FACTS, layers=layers), model(), Quant.Q4_K_M)


def test_llama_cpps_log_is_quiet_and_then_the_same_again(capfd: pytest.CaptureFixture[str]) -> None:
    quant_types(FACTS, model(40), Quant.Q4_K_M)  # warns about every fallback
    assert capfd.readouterr() == ("", "")
    assert llama_library() is llama_library()
