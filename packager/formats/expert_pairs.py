"""Makes the updates of experts that were trained together, one for each tensor that holds some of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from packager.artifacts import Checkpoint, ExpertPair, TensorEntry
from packager.errors import InputInvalid, Unsupported
from packager.formats.adapter_settings import AdapterSettings
from packager.formats.expert_targets import expert_targets, is_adapted, parameter_of, wrapped_module

_SAME_SAVE = "Take adapter_config.json and the weights from the same save."


@dataclass(frozen=True, kw_only=True)
class ExpertMatcher:
    """Finds the tensors of trained parameters.

    Attributes:
        settings: The adapter's adapter_config.json.
        base: What it is merged into.
        tensors: The tensors that it may change, by name.
        hint: The hint for what does not fit.
    """

    settings: AdapterSettings
    base: Checkpoint
    tensors: Mapping[str, TensorEntry]
    hint: str

    def parameter(self, module: str, modules: Collection[str]) -> str | None:
        """Give the parameter that a module's update is of; see `parameter_of`. `modules` are all that have one."""
        depths = sum(wrapped_module(other) == wrapped_module(module) for other in modules)
        return parameter_of(module, self.settings.parameters, depths)

    def missing(self, modules: Collection[str]) -> Iterator[str]:
        """Yield the parameters of some layers that were adapted and that none of `modules` is of, though another layer's is."""
        trained = {self.parameter(module, modules) for module in modules} - {None}
        for parameter in sorted(filter(None, trained)):
            for layer in range(self.base.layers):
                other = re.sub(r"(?<=\.)\d+(?=\.)", str(layer), parameter, count=1)
                stored = other in self.tensors or expert_targets(other, self.tensors, self.base.architecture)
                if stored and other not in trained and is_adapted(other, self.settings.parameters):
                    yield other

    def pairs(self, parameter: str, a: TensorEntry, b: TensorEntry) -> tuple[ExpertPair, ...] | None:
        """Give the updates that A and B of a parameter are; None where the checkpoint has it as an ordinary matrix.

        Raises:
            InputInvalid: A and B do not fit the experts of the base, or the rank that the configuration says.
            Unsupported: They are stored as something that is no float.
        """
        targets = expert_targets(parameter, self.tensors, self.base.architecture)
        if targets is None:
            return None
        file, experts = a.file, targets[0].experts
        for entry in (a, b):
            if entry.dtype not in ("F32", "BF16", "F16") or len(entry.shape) != 2:
                raise Unsupported(
                    f"{file}: {entry.name!r} is stored as {entry.dtype} {entry.shape}",
                    hint="Save the adapter in float32, float16 or bfloat16.",
                )
        rank = self.settings.scaling.rank_of(parameter)
        for entry, found, wanted, hint in (
            (a, a.shape[1], targets[0].inputs, self.hint),
            (b, b.shape[0], targets[0].outputs, self.hint),
            (a, a.shape[0], rank * experts, _SAME_SAVE),
            (b, b.shape[1], rank * experts, _SAME_SAVE),
        ):
            if found != wanted:
                raise InputInvalid(
                    f"{file}: {entry.name!r} is {entry.shape[0]}x{entry.shape[1]}; {parameter} of {self.base.folder}, "
                    f"{experts} experts of rank {rank}, wants {wanted} in place of {found}",
                    hint=hint,
                )
        return tuple(
            ExpertPair(
                target=target.tensor.name,
                a=a,
                b=b,
                scale=self.settings.scaling.scale_of(parameter),
                experts=experts,
                expert=target.expert,
                first_output=target.first_output,
                transposed=target.transposed,
            )
            for target in targets
        )
