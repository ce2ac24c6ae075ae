"""Which tensor of a checkpoint a module's update changes, and how that tensor is stored.

The one place where a module's name, as transformers has it, becomes a tensor's name, as the checkpoint has it.
"""

from __future__ import annotations

from collections.abc import Mapping

from packager.artifacts import TensorEntry

# transformers' Conv1D stores (in, out). peft decides by the layer's class and overrules fan_in_fan_out where they
# disagree (peft 0.21, `lora.layer.dispatch_default`), so the class is what counts here, too.
_CONV1D = {
    "GPT2LMHeadModel": ("c_attn", "q_attn", "c_proj", "c_fc"),
    "OpenAIGPTLMHeadModel": ("c_attn", "c_proj", "c_fc"),
}


def weight_of(module: str, tensors: Mapping[str, TensorEntry]) -> TensorEntry | None:
    """Give the tensor that holds a module's weight, None where the checkpoint has none."""
    return tensors.get(f"{module}.weight")


def is_transposed(module: str, architecture: str) -> bool:
    """Whether a linear module's weight is stored `(in, out)`."""
    return module.rsplit(".", 1)[-1] in _CONV1D.get(architecture, ())
