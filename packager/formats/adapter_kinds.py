"""Which adapters are plain LoRA, and the name of every other kind, so that it can be refused before the first byte.

Anything that changes what `W + scale * B @ A` computes, or that trained more than A and B, is named here. A switch of a
later peft that is not known is refused as well: an adapter is never merged as something it might not be.
"""

from __future__ import annotations

import re
from pathlib import Path

from packager.errors import InputInvalid, PackagerError, Unsupported
from packager.formats.json_file import JsonObject

_PEFT_TYPES = {
    "LOHA": "LoHa",
    "LOKR": "LoKr",
    "IA3": "(IA)3",
    "VERA": "VeRA",
    "ADALORA": "AdaLoRA",
    "XLORA": "X-LoRA",
    "PROMPT_TUNING": "prompt tuning",
    "MULTITASK_PROMPT_TUNING": "multitask prompt tuning",
    "P_TUNING": "p-tuning",
    "PREFIX_TUNING": "prefix tuning",
    "LN_TUNING": "layer norm tuning",
    "TRAINABLE_TOKENS": "trainable tokens",
}
# Keys of adapter_config.json that, when set, make it more or other than W + scale * B @ A.
_SWITCHES = {
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "modules_to_save": "fully trained modules (modules_to_save)",
    "trainable_token_indices": "trained tokens (trainable_token_indices)",
    "layer_replication": "replicated layers (layer_replication)",
    "lora_bias": "trained biases (lora_bias)",
    "target_parameters": "LoRA on parameters (target_parameters)",
    "alora_invocation_tokens": "activated LoRA (alora_invocation_tokens)",
    "arrow_config": "Arrow routing (arrow_config)",
    "kasa_config": "KaSA (kasa_config)",
    "monteclora_config": "MonteCLoRA (monteclora_config)",
    "velora_config": "VeLoRA (velora_config)",
    "megatron_config": "LoRA on Megatron layers (megatron_config)",
}
# These initializations change the base's weights too, so that A and B belong to a base that no file holds.
_BASE_CHANGING_INIT = ("pissa", "olora", "corda", "loftq", "lora_ga", "mica")
_TENSOR_KINDS = (
    ("lora_magnitude_vector", "DoRA"),
    ("lora_embedding_", "LoRA on an embedding"),
    ("trainable_tokens", "trained tokens"),
    ("token_adapter", "trained tokens"),
    ("modules_to_save", "a fully trained module"),
    ("lora_B.bias", "trained biases (lora_bias)"),
    ("hada_", "LoHa"),
    ("lokr_", "LoKr"),
    ("ia3_", "(IA)3"),
    ("vera_", "VeRA"),
    ("oft_", "OFT"),
    ("prompt_embeddings", "prompt tuning"),
    ("original_module", "a fully trained module"),
)
_PLAIN_HINT = (
    "Only plain LoRA and rsLoRA are merged. Merge it with peft's merge_and_unload and pass the result as the base."
)


def refuse_other_kinds(config: JsonObject) -> None:
    """Refuse an adapter_config.json that describes anything but plain LoRA or rsLoRA.

    Raises:
        InputInvalid: It names no kind.
        Unsupported: It is of another kind; the message names it.
    """
    kind = config.text("peft_type")
    if kind is None:
        raise InputInvalid(f"{config.path}: no peft_type", hint="Pass an adapter that peft's save_pretrained wrote.")
    if kind.upper() != "LORA":
        name = _PEFT_TYPES.get(kind.upper(), kind[:40])
        raise _unsupported(config.path, f"{name} (peft_type {kind[:40]})")
    for key, value in config.values.items():
        if value and (key in _SWITCHES or (key.startswith("use_") and key != "use_rslora")):
            raise _unsupported(config.path, _SWITCHES.get(key, f"a LoRA variant ({key[:40]})"))
    init = config.values.get("init_lora_weights")
    if isinstance(init, str) and init.lower().startswith(_BASE_CHANGING_INIT):
        raise Unsupported(
            f"{config.path}: init_lora_weights {init[:40]!r} trains against a changed base, not the base itself",
            hint="Save it with peft's path_initial_model_for_weight_conversion, which makes a plain LoRA of it.",
        )


def other_tensor(path: Path, name: str, module_has_weight: bool) -> PackagerError:
    """Give the error for an adapter tensor that is neither `lora_A.weight` nor `lora_B.weight`; the caller raises it.

    Args:
        path: The adapter's weights file.
        name: The tensor's full name.
        module_has_weight: Whether the base has a tensor of this name without the `base_model.model.` in front.
    """
    for part, kind in _TENSOR_KINDS:
        if part in name:
            return _unsupported(path, kind, name)
    if re.search(r"\.bias$", name):
        return _unsupported(path, "trained biases (bias)", name)
    if module_has_weight:
        return _unsupported(path, "a fully trained module", name)
    return InputInvalid(
        f"{path}: tensor {name!r} is no part of a LoRA (base_model.model.<module>.lora_A.weight or lora_B.weight)",
        hint="Pass an adapter that peft's save_pretrained wrote.",
    )


def _unsupported(path: Path, kind: str, tensor: str | None = None) -> Unsupported:
    where = f" (tensor {tensor!r})" if tensor else ""
    return Unsupported(f"{path}: the adapter uses {kind}{where}", hint=_PLAIN_HINT)
