"""What an adapter_config.json says was trained and the file beside it does not have."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from packager.artifacts import Checkpoint, TensorEntry
from packager.formats.adapter_settings import AdapterSettings
from packager.formats.adapter_tensors import AdapterTensors, Part


def missing_tensors(
    settings: AdapterSettings, tensors: Mapping[str, TensorEntry], held: AdapterTensors, base: Checkpoint
) -> Iterator[str]:
    """Yield what the configuration says was trained and the file does not have."""
    lora = {module for module, parts in held.modules.items() if Part.A in parts or Part.EMBEDDING_A in parts}
    for name in sorted(tensors):
        module, _, parameter = name.rpartition(".")
        if settings.saves(module) and name not in held.wholes:
            yield name
        biased = settings.bias == "all" or (settings.bias == "lora_only" and module in lora)
        there = name in held.wholes or Part.BASE_BIAS in held.modules.get(module, {})
        if parameter == "bias" and biased and f"{module}.weight" in tensors and not there:
            yield name
    for target in settings.targets:
        yield from _missing_layers(target, tensors, lora, base.layers)
    tokens = {module for module, parts in held.modules.items() if Part.TOKENS in parts}
    for name, rows in settings.tokens.items():
        as_one = base.ties_embeddings and list(settings.tokens.values()).count(rows) > 1  # saved once
        if not any(module.endswith(name) for module in tokens) and not (as_one and tokens):
            yield f"{name or 'embedding'}.{Part.TOKENS}"


def _missing_layers(target: str, tensors: Mapping[str, TensorEntry], lora: set[str], layers: int) -> Iterator[str]:
    """Yield modules of some layers where the same module of another layer has an update.

    A target without any update is not missing: transformers may have no module of the checkpoint's name.
    """
    for module in sorted(lora):
        if module != target and not module.endswith(f".{target}"):
            continue
        for layer in range(layers):
            other = re.sub(r"(?<=\.)\d+(?=\.)", str(layer), module, count=1)
            if f"{other}.weight" in tensors and other not in lora:
                yield f"lora_A and lora_B for {other}"
