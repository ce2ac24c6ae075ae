"""A fine-tune on a transformers model by peft itself: folder after folder, the last one unmerged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from packager.artifacts import Adapter, AdapterStep, LoraPair
from packager.engines.loading import named
from packager.errors import Unsupported


def adapted(model: Any, adapter: Adapter, *, parked: bool) -> Any:
    """Give the model with its adapter.

    Args:
        model: The base as transformers loaded it, in float32.
        adapter: The fine-tune.
        parked: Some of the base's weights are on the disk, where peft cannot merge and keeps only low-rank updates.

    Raises:
        InputInvalid: peft cannot load a folder.
        Unsupported: The fine-tune is of a kind that cannot be added to weights on the disk.
    """
    from peft import PeftModel

    if parked:
        _refuse_parked(adapter)
    before: AdapterStep | None = None
    for step in adapter.steps:
        with named(step.folder):
            if before is not None:
                if before.unties:
                    _untie(model)
                model = model.merge_and_unload()
            if step.vocab_size is not None:
                model.resize_token_embeddings(step.vocab_size, mean_resizing=False)
            model = PeftModel.from_pretrained(model, str(step.folder), torch_device="cpu")
            if parked:
                _load_updates(model, step.folder)
            before = step
    return model


def reshape(model: Any, adapter: Adapter) -> None:
    """Give a base the vocabulary of a fine-tune, and an output layer of its own where the fine-tune unties one."""
    if adapter.vocab_size is not None:
        model.resize_token_embeddings(adapter.vocab_size, mean_resizing=False)
    if adapter.output_layer is not None:
        _untie(model)


def _untie(model: Any) -> None:
    """Give the output layer a weight of its own: peft merges an embedding into the weight that it shares, and so into both."""
    import torch

    model.config.get_text_config().tie_word_embeddings = False
    model.config.tie_word_embeddings = False
    layer = model.get_output_embeddings()
    while (inner := getattr(layer, "base_layer", None) or getattr(layer, "original_module", None)) is not None:
        layer = inner
    layer.weight = torch.nn.Parameter(layer.weight.detach().clone(), requires_grad=False)


def _refuse_parked(adapter: Adapter) -> None:
    plain = all(
        isinstance(update, LoraPair) and update.magnitude is None and "lora_embedding" not in update.a.name
        for update in adapter.updates
    )
    if not plain or len(adapter.steps) > 1 or adapter.output_layer is not None:
        raise Unsupported(
            f"{adapter.folder}: the reference is larger than memory, and with weights on the disk only one plain LoRA runs",
            hint="Use a machine with more memory, or --reference-memory with more of it; or --no-verify.",
        )


def _load_updates(model: Any, adapter: Path) -> None:
    """Load the low-rank matrices into memory: peft leaves them without values where their base layer is on the disk."""
    from peft import load_peft_weights

    names = {"lora_A.weight": "lora_A.default.weight", "lora_B.weight": "lora_B.default.weight"}
    weights = {
        name.replace(old, new): value
        for name, value in load_peft_weights(str(adapter), device="cpu").items()
        for old, new in names.items()
        if name.endswith(old)
    }
    model.load_state_dict(weights, strict=False, assign=True)
    if any(value.is_meta for name, value in model.named_parameters() if ".lora_" in name):
        raise ValueError("it has updates that are not in its file")
