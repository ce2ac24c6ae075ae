"""Checkpoints and adapters of a few small tensors, written by safetensors itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from packager.artifacts import Adapter, AdapterStep, Checkpoint, Dtype, LoraPair, Sampling, TensorEntry
from packager.formats.safetensors import read_header


def entries(path: Path, tensors: Mapping[str, torch.Tensor]) -> tuple[TensorEntry, ...]:
    save_file(dict(tensors), path)
    return tuple(sorted(read_header(path), key=lambda entry: entry.name))


def checkpoint(
    folder: Path, tensors: Mapping[str, torch.Tensor], *, layers: int = 1, vocab_size: int = 8
) -> Checkpoint:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16"}))
    return Checkpoint(
        folder=folder,
        name=folder.name,
        architecture="LlamaForCausalLM",
        dtype=Dtype.BFLOAT16,
        hidden_size=8,
        layers=layers,
        vocab_size=vocab_size,
        context_tokens=None,
        ties_embeddings=True,
        eos_token_ids=(),
        sampling=Sampling(),
        chat_template=None,
        license_id=None,
        license_file=None,
        tensors=entries(folder / "model.safetensors", tensors),
    )


def adapter(
    folder: Path,
    pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    *,
    scale: float = 1.0,
    transposed: bool = False,
) -> Adapter:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for target, (a, b) in pairs.items():
        tensors |= {f"{target}.lora_A": a.contiguous(), f"{target}.lora_B": b.contiguous()}
    found = {entry.name: entry for entry in entries(folder / "adapter_model.safetensors", tensors)}
    return Adapter(
        steps=(AdapterStep(folder=folder),),
        name=folder.name,
        base_name=None,
        updates=tuple(
            LoraPair(
                target=target,
                a=found[f"{target}.lora_A"],
                b=found[f"{target}.lora_B"],
                scale=scale,
                transposed=transposed,
            )
            for target in sorted(pairs)
        ),
        chat_template=None,
    )


def pairs(adapter: Adapter) -> tuple[LoraPair, ...]:
    """An adapter's low-rank updates."""
    return tuple(update for update in adapter.updates if isinstance(update, LoraPair))
