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
    for step in adapter.steps:
        with named(step.folder):
            if step is not adapter.steps[0]:
                model = model.merge_and_unload()
            fit(model, step)
            model = PeftModel.from_pretrained(model, str(step.folder), torch_device="cpu")
            if parked:
                _load_updates(model, step.folder)
    return model


def fit(model: Any, step: AdapterStep) -> None:
    """Give a model the vocabulary that a step needs, and an output layer of its own where the step unties one."""
    import torch

    if step.vocab_size is not None:
        model.resize_token_embeddings(step.vocab_size, mean_resizing=False)
    if step.unties:
        model.config.get_text_config().tie_word_embeddings = False
        model.config.tie_word_embeddings = False
        weight = model.get_input_embeddings().weight
        model.get_output_embeddings().weight = torch.nn.Parameter(weight.detach().clone(), requires_grad=False)


def _refuse_parked(adapter: Adapter) -> None:
    plain = all(isinstance(update, LoraPair) and update.magnitude is None for update in adapter.updates)
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
