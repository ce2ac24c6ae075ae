"""Which adapters can be merged, and the name of every other kind, so that it can be refused before the first byte.

LoRA with its switches (rsLoRA, DoRA, trained biases, modules and tokens) is merged; anything else that changes what a layer
computes is named here. A switch of a later peft that is not known is refused as well: an adapter is never merged as something
it might not be.
"""

from __future__ import annotations

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
# Keys of adapter_config.json that, when set, make a layer compute something that is not merged.
_SWITCHES = {
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "layer_replication": "replicated layers (layer_replication)",
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
    ("hada_", "LoHa"),
    ("lokr_", "LoKr"),
    ("ia3_", "(IA)3"),
    ("vera_", "VeRA"),
    ("oft_", "OFT"),
    ("prompt_embeddings", "prompt tuning"),
)
_MERGED = ("use_rslora", "use_dora")
_OTHER_HINT = (
    "Of peft's kinds LoRA, rsLoRA and DoRA are merged. Merge this one with peft, and pass the result as the base."
)


def refuse_other_kinds(config: JsonObject) -> None:
    """Refuse an adapter_config.json that describes anything but LoRA, rsLoRA or DoRA.

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
        if value and (key in _SWITCHES or (key.startswith("use_") and key not in _MERGED)):
            raise _unsupported(config.path, _SWITCHES.get(key, f"a LoRA variant ({key[:40]})"))
    init = config.values.get("init_lora_weights")
    if isinstance(init, str) and init.lower().startswith(_BASE_CHANGING_INIT):
        raise Unsupported(
            f"{config.path}: init_lora_weights {init[:40]!r} trains against a changed base, not the base itself",
            hint="Save it with peft's path_initial_model_for_weight_conversion, which makes a plain LoRA of it.",
        )


def other_tensor(path: Path, name: str) -> PackagerError:
    """Give the error for a tensor that is no part of a LoRA, or has no place in the base; the caller raises it."""
    for part, kind in _TENSOR_KINDS:
        if part in name:
            return _unsupported(path, kind, name)
    if name.startswith("base_model.model.") and name.endswith((".weight", ".bias")):
        return InputInvalid(
            f"{path}: {name!r} matches no tensor of the base", hint="Pass the base this adapter was trained on."
        )
    return InputInvalid(
        f"{path}: tensor {name!r} is no part of a LoRA (base_model.model.<module>.lora_A.weight or lora_B.weight)",
        hint="Pass an adapter that peft's save_pretrained wrote.",
    )


def _unsupported(path: Path, kind: str, tensor: str | None = None) -> Unsupported:
    where = f" (tensor {tensor!r})" if tensor else ""
    return Unsupported(f"{path}: the adapter uses {kind}{where}", hint=_OTHER_HINT)
