"""Where LoRA on parameters goes: peft's `target_parameters`, by which the experts of one layer are trained together.

transformers 5 holds the experts of a layer in two parameters, `experts.gate_up_proj` and `experts.down_proj`, each a stack of
matrices; most checkpoints hold every expert's matrices apart. peft puts one layer around the module for each trained parameter,
so that a tensor's name says how deep it is, and not whose it is: `experts.base_layer.lora_A` is of the parameter that was
wrapped first. Which that is follows from the order in which the module declares its parameters.

Source:
    peft 0.21 `lora.layer.ParamWrapper` (A is `(experts * rank, in)`, expert by expert; B is `(out, rank * experts)`, rank by
    rank), `BaseTuner._inject_parameters`; transformers 5 `conversion_mapping.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from packager.artifacts import TensorEntry
from packager.formats.adapter_targets import possible_names

_WRAPPED = ".base_layer"
# In the order in which every module of transformers 5 that has several of them declares them.
_PARAMETERS = ("weight", "gate_up_proj", "gate_up_proj_bias", "up_proj", "down_proj", "down_proj_bias")
# What the outputs of a parameter are called in a checkpoint that holds every expert apart, in their order.
_APART = {
    "gate_up_proj": (("gate_proj", "up_proj"), ("w1", "w3")),
    "up_proj": (("up_proj",),),
    "down_proj": (("down_proj",), ("w2",)),
}
# Granite MoE stores the same stacks under the names of other modules.
_STACKS = {"gate_up_proj": "input_linear.weight", "down_proj": "output_linear.weight"}
# Stacks of `(experts, in, out)`; all others are `(experts, out, in)`.
_TRANSPOSED = ("GptOssForCausalLM",)


@dataclass(frozen=True, kw_only=True)
class ExpertTarget:
    """One tensor that the update of a parameter changes.

    Attributes:
        tensor: One expert's matrix, or the stack of all.
        expert: Which expert's; None for the stack.
        experts: How many matrices A and B hold.
        inputs: Columns that A must have.
        outputs: Rows that B must have.
        first_output: The row of B that belongs to the tensor's first output.
        transposed: The stack holds `(in, out)` for each expert.
    """

    tensor: TensorEntry
    expert: int | None
    experts: int
    inputs: int
    outputs: int
    first_output: int = 0
    transposed: bool = False


def wrapped_module(module: str) -> str:
    """Give a module's name without the layers that peft put around it."""
    return module.replace(_WRAPPED, "")


def parameter_of(module: str, parameters: tuple[str, ...], depths: int) -> str | None:
    """Give the parameter that a wrapped module's update is of, with the module's name in front.

    Args:
        module: A module's name in an adapter, `model.layers.0.mlp.experts.base_layer`.
        parameters: target_parameters of adapter_config.json.
        depths: How many updates the adapter has for this module, at any depth.

    Returns:
        `model.layers.0.mlp.experts.gate_up_proj`; None where it is no update of a parameter, or of one that is not known.
    """
    bare, depth = wrapped_module(module), module.count(_WRAPPED)
    adapted = [name for name in _PARAMETERS if is_adapted(f"{bare}.{name}", parameters)]
    return f"{bare}.{adapted[-1 - depth]}" if len(adapted) == depths and depth < depths else None


def expert_targets(
    parameter: str, tensors: Mapping[str, TensorEntry], architecture: str
) -> tuple[ExpertTarget, ...] | None:
    """Give the tensors that hold a parameter, None where it is no stack of experts that the checkpoint has.

    Args:
        parameter: `model.layers.0.mlp.experts.gate_up_proj`.
        tensors: The checkpoint's tensors by name.
        architecture: The checkpoint's.
    """
    module, _, name = parameter.rpartition(".")
    for base in possible_names(module):
        for stored in (f"{base}.{name}", f"{base}.{name}.weight", f"{base.rpartition('.')[0]}.{_STACKS.get(name)}"):
            stack = tensors.get(stored)
            if stack is not None and len(stack.shape) == 3:
                return (_stack(stack, architecture in _TRANSPOSED),)
        for parts in _APART.get(name, ()):
            if f"{base}.0.{parts[0]}.weight" in tensors:
                return _apart(base, parts, tensors)
    return None


def is_adapted(parameter: str, names: tuple[str, ...]) -> bool:
    """Whether target_parameters names a parameter, by its whole name or its end."""
    return any(parameter == name or parameter.endswith(f".{name}") for name in names)


def _stack(tensor: TensorEntry, transposed: bool) -> ExpertTarget:
    experts, first, second = tensor.shape
    inputs, outputs = (first, second) if transposed else (second, first)
    return ExpertTarget(
        tensor=tensor, expert=None, experts=experts, inputs=inputs, outputs=outputs, transposed=transposed
    )


def _apart(base: str, parts: tuple[str, ...], tensors: Mapping[str, TensorEntry]) -> tuple[ExpertTarget, ...] | None:
    experts = 0
    while f"{base}.{experts}.{parts[0]}.weight" in tensors:
        experts += 1
    found = []
    for expert in range(experts):
        matrices = [tensors.get(f"{base}.{expert}.{part}.weight") for part in parts]
        outputs = sum(matrix.shape[0] for matrix in matrices if matrix is not None)
        first = 0
        for matrix in matrices:
            if matrix is None or len(matrix.shape) != 2:
                return None
            found.append(
                ExpertTarget(
                    tensor=matrix,
                    expert=expert,
                    experts=experts,
                    inputs=matrix.shape[1],
                    outputs=outputs,
                    first_output=first,
                )
            )
            first += matrix.shape[0]
    return tuple(found)
