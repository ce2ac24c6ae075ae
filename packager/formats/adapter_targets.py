"""Which tensor of a checkpoint a module's update changes, and how that tensor is stored.

The one place where a module's name, as transformers has it, becomes a tensor's name, as the checkpoint has it. transformers
renames tensors when it loads a checkpoint and renames them back when it saves one, and it has changed its mind about some
names, so that an adapter's names are those of the version that trained it.

Source:
    transformers 5 `conversion_mapping.py`, for the text architectures that llama.cpp's converter knows.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

from packager.artifacts import TensorEntry

# transformers' Conv1D stores (in, out). peft decides by the layer's class and overrules fan_in_fan_out where they
# disagree (peft 0.21, `lora.layer.dispatch_default`), so the class is what counts here, too.
_CONV1D = {
    "GPT2LMHeadModel": ("c_attn", "q_attn", "c_proj", "c_fc"),
    "OpenAIGPTLMHeadModel": ("c_attn", "c_proj", "c_fc"),
}
# What a module is called in memory and in the checkpoint. Only a name that the checkpoint has is ever taken.
_RENAMED = (
    (r"^lm_head$", "embed_out"),  # GPT-NeoX
    (r"\.mlp\.router$", ".block_sparse_moe.gate"),  # Phi-3.5-MoE
    (r"\.mlp\.", ".block_sparse_moe."),  # Mixtral, MiniMax-M2, Kimi Linear
    (r"\.block_sparse_moe\.router$", ".block_sparse_moe.router.layer"),  # Granite MoE
    (r"\.mlp\.gate$", ".mlp.router.gate"),  # Hunyuan 3
    (r"\.mlp\.shared_experts\.", ".mlp.shared_mlp."),  # Hunyuan 3
    (r"\.mlp\.shared_experts\.", ".mlp.shared_expert."),  # Laguna
    (r"\.forget_gate\.", "."),  # Kimi Linear
    (r"^model\.", "backbone."),  # Nemotron-H
    (r"^model\.language_model\.", "language_model.model."),  # Gemma 3 and others that also see
    (r"^language_model\.model\.", "model.language_model."),  # the same before transformers 4.52
    (r"^model\.language_model\.", "model."),  # trained with the class that also sees, on a base that does not
    (r"^model\.", "model.language_model."),  # trained with the text class, on a base that also sees
    (r"^model\.", "language_model.model."),
    (r"^lm_head$", "language_model.lm_head"),
    (r"^language_model\.lm_head$", "lm_head"),
)


def checkpoint_module(module: str, names: Collection[str]) -> str:
    """Give the name that the checkpoint has for a module.

    Args:
        module: `lm_head`, or `model.layers.0.mlp.gate`.
        names: The names of the checkpoint's tensors.

    Returns:
        The name that has a weight among `names`; the module's own where none has.
    """
    return next((name for name in possible_names(module) if f"{name}.weight" in names), module)


def possible_names(module: str) -> Iterator[str]:
    """Give the names that a module may have in a checkpoint, its own first."""
    yield module
    for pattern, name in _RENAMED:
        renamed = re.sub(pattern, name, module)
        if renamed != module:
            yield renamed


def weight_of(module: str, tensors: Mapping[str, TensorEntry]) -> TensorEntry | None:
    """Give the tensor that holds a module's weight, None where the checkpoint has none."""
    return tensors.get(f"{checkpoint_module(module, tensors)}.weight")


def is_transposed(module: str, architecture: str) -> bool:
    """Whether a linear module's weight is stored `(in, out)`."""
    return module.rsplit(".", 1)[-1] in _CONV1D.get(architecture, ())
