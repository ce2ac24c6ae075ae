"""Bases and adapters of a few kilobytes, written with the safetensors library itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
from safetensors.numpy import save_file

HIDDEN, VOCAB, RANK = 8, 16, 2
TENSORS = {
    "lm_head.weight": (VOCAB, HIDDEN),
    "model.embed_tokens.weight": (VOCAB, HIDDEN),
    "model.layers.0.mlp.down_proj.weight": (HIDDEN, 12),
    "model.layers.0.self_attn.q_proj.weight": (HIDDEN, HIDDEN),
    "model.norm.weight": (HIDDEN,),
}
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": HIDDEN,
    "num_hidden_layers": 1,
    "vocab_size": VOCAB,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
    "eos_token_id": 2,
}
ADAPTER_CONFIG = {"peft_type": "LORA", "r": RANK, "lora_alpha": 6, "base_model_name_or_path": "someone/base"}
Q_PROJ = "base_model.model.model.layers.0.self_attn.q_proj"


def values(*shape: int) -> numpy.ndarray:
    return numpy.arange(int(numpy.prod(shape)), dtype=numpy.float32).reshape(shape) / 7


def write_base(folder: Path, *, tensors: dict[str, numpy.ndarray] | None = None, **config: object) -> Path:
    """A base with one safetensors file; `config` changes its config.json, None removes a key."""
    folder.mkdir(parents=True, exist_ok=True)
    merged = {key: value for key, value in {**CONFIG, **config}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(merged))
    held = {name: values(*shape) for name, shape in TENSORS.items()} if tensors is None else tensors
    save_file(held, folder / "model.safetensors")
    return folder


def write_sharded(folder: Path) -> Path:
    """The same base in two shards with an index."""
    write_base(folder)
    (folder / "model.safetensors").unlink()
    weight_map = {}
    names = sorted(TENSORS)
    for number, part in enumerate((names[:2], names[2:]), start=1):
        shard = f"model-0000{number}-of-00002.safetensors"
        save_file({name: values(*TENSORS[name]) for name in part}, folder / shard)
        weight_map.update(dict.fromkeys(part, shard))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def lora(
    module: str = Q_PROJ, inputs: int = HIDDEN, outputs: int = HIDDEN, rank: int = RANK
) -> dict[str, numpy.ndarray]:
    return {f"{module}.lora_A.weight": values(rank, inputs), f"{module}.lora_B.weight": values(outputs, rank)}


def write_adapter(folder: Path, *, tensors: dict[str, numpy.ndarray] | None = None, **config: object) -> Path:
    """An adapter for `write_base`; `config` changes its adapter_config.json, None removes a key."""
    folder.mkdir(parents=True, exist_ok=True)
    merged = {key: value for key, value in {**ADAPTER_CONFIG, **config}.items() if value is not None}
    (folder / "adapter_config.json").write_text(json.dumps(merged))
    save_file(lora() if tensors is None else tensors, folder / "adapter_model.safetensors")
    return folder


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
