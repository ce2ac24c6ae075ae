"""The types that a model's tensors will have in a quant, from their names in the checkpoint alone: for a plan.

llama.cpp's own rules are asked (`weights.tensor_types`), as when the file is written, but about names guessed from the
checkpoint's: nothing heavy is imported, and no converter is needed. The sum of sizes is close; a single tensor may be wrong.
"""

from __future__ import annotations

import json
from pathlib import Path

from packager.artifacts import Checkpoint, Quant, TensorEntry
from packager.formats.gguf import GgmlType
from packager.quants import FLOATS
from packager.weights.tensor_types import ModelFacts, llama_order, quant_types

EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "tok_embeddings.weight", "word_embeddings.weight", "embed_in.weight")
OUTPUTS = ("lm_head.weight", "output.weight", "embed_out.weight")
_ROUTERS = ("mlp.gate.weight", "block_sparse_moe.gate.weight", "router.weight")
# The part of a GGUF name that llama.cpp's rules look at, by the end of a checkpoint's.
_ROLES = {
    "attn_qkv": ("qkv_proj.weight", "wqkv.weight", "query_key_value.weight", "c_attn.weight", "W_pack.weight"),
    "attn_kv_b": ("kv_b_proj.weight",),
    "attn_v": ("v_proj.weight", "attention.wv.weight"),
    "attn_k": ("k_proj.weight", "attention.wk.weight"),
    "attn_q": ("q_proj.weight", "attention.wq.weight"),
    "attn_output": ("o_proj.weight", "attention.wo.weight", "attention.dense.weight", "attn.c_proj.weight"),
    "ffn_down": (
        "down_proj.weight",
        "w2.weight",
        "dense_4h_to_h.weight",
        "fc2.weight",
        "mlp.c_proj.weight",
        "down_proj",
    ),
    "ffn_gate": ("gate_proj.weight", "w1.weight"),
    "ffn_up": ("up_proj.weight", "w3.weight", "dense_h_to_4h.weight", "fc1.weight", "c_fc.weight", "up_proj"),
}


def listed_types(
    base: Checkpoint, tensors: list[TensorEntry], quant: Quant, *, importance: bool = False
) -> list[tuple[TensorEntry, str, GgmlType]]:
    """Give a guessed GGUF name and a type for every tensor.

    Raises:
        Unsupported: llama.cpp cannot write such a model in this type.
        ToolMissing: llama-cpp-python is not installed.
    """
    named = [(tensor, _name(tensor, index)) for index, tensor in enumerate(tensors)]
    if quant in FLOATS:
        kind = {Quant.F32: GgmlType.F32, Quant.F16: GgmlType.F16, Quant.BF16: GgmlType.BF16}[quant]
        return [(tensor, name, GgmlType.F32 if _stays(tensor) else kind) for tensor, name in named]
    asked = {name: (name, _shape(tensor), GgmlType.F32) for tensor, name in named if not _stays(tensor)}
    listed = sorted(asked.values(), key=lambda each: llama_order(each[0]))
    types = quant_types(_facts(base, tensors), listed, quant, importance=importance)
    return [(tensor, name, types.get(name, GgmlType.F32)) for tensor, name in named]


def _name(tensor: TensorEntry, index: int) -> str:
    if tensor.name.endswith(OUTPUTS):
        return "output.weight"
    if tensor.name.endswith(EMBEDDINGS):
        return "token_embd.weight"
    numbers = [part for part in tensor.name.split(".") if part.isdecimal()]
    block = f"blk.{numbers[0]}" if numbers else "blk.0"
    role = next((role for role, ends in _ROLES.items() if tensor.name.endswith(ends)), f"other_{index}")
    return f"{block}.{role}{'_exps' if '.experts' in tensor.name else ''}.weight"


def _shape(tensor: TensorEntry) -> tuple[int, ...]:
    """Give a shape to ask about: one expert stands for the stack of them that the file has."""
    return (2, *tensor.shape[-2:]) if ".experts" in tensor.name else tensor.shape


def _stays(tensor: TensorEntry) -> bool:
    return len(tensor.shape) < 2 or tensor.name.endswith(("norm.weight", ".bias", *_ROUTERS))


def _facts(base: Checkpoint, tensors: list[TensorEntry]) -> ModelFacts:
    config = _config(base.folder / "config.json")

    def number(*keys: str, default: int = 0) -> int:
        return next((value for key in keys if isinstance(value := config.get(key), int) and value > 0), default)

    heads = number("num_attention_heads", "n_head", default=1)
    experts = number("num_local_experts", "num_experts", "n_routed_experts")
    # Rules that are only for these two: the values of an 80-layer Llama, and Falcon's output.
    names = {"Llama": "llama", "Falcon": "falcon"}
    return ModelFacts(
        architecture=next((name for start, name in names.items() if base.architecture.startswith(start)), "qwen2"),
        embedding=base.hidden_size,
        feed_forward=number("intermediate_size"),
        layers=max(1, base.layers),
        heads=heads,
        heads_kv=number("num_key_value_heads", default=heads),
        experts=experts if any(".experts" in tensor.name for tensor in tensors) else 0,
        head_k=0,
        head_v=0,
    )


def _config(path: Path) -> dict[str, object]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # a damaged config is reported by its own reader
    inner = config.get("text_config") if isinstance(config, dict) else None
    return {**config, **inner} if isinstance(inner, dict) else config if isinstance(config, dict) else {}
