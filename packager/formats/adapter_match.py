"""Finds the base tensor of every adapter tensor, and refuses what has none, does not fit, or lacks its other half."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from packager.artifacts import (
    AddedVector,
    Checkpoint,
    ExpertPair,
    LoraPair,
    ReplacedRows,
    ReplacedTensor,
    TensorEntry,
    Update,
)
from packager.errors import InputInvalid, Unsupported
from packager.formats.adapter_complete import missing_tensors
from packager.formats.adapter_settings import AdapterSettings
from packager.formats.adapter_targets import is_transposed, weight_of
from packager.formats.adapter_tensors import AdapterTensors, Part, module_of
from packager.formats.expert_pairs import ExpertMatcher
from packager.formats.tensor_bytes import same_values

_FLOATS = ("F32", "BF16", "F16")
_PAIRS = ((Part.A, Part.B), (Part.EMBEDDING_A, Part.EMBEDDING_B))
_AGAIN = "Save the adapter again."


@dataclass(frozen=True, kw_only=True)
class Matcher:
    """Makes the updates of one PEFT folder.

    Attributes:
        path: Its weights, for messages.
        settings: Its adapter_config.json.
        base: What it is merged into: the base, with the names and shapes that earlier folders gave it.
        tensors: The tensors that it may change, by name, with the shapes that this folder gives them.
        embedding: The input embedding's tensor, for trained tokens; empty when unknown.
        tied_output: The output layer's tensor where it shares the embedding's; empty where it does not.
        changed: What earlier folders changed, so that copies of it cannot be compared with the base's files.
        trained_on: The hint for what does not fit.
    """

    path: Path
    settings: AdapterSettings
    base: Checkpoint
    tensors: Mapping[str, TensorEntry]
    embedding: str
    tied_output: str
    changed: frozenset[str]
    trained_on: str

    @property
    def _experts(self) -> ExpertMatcher:
        return ExpertMatcher(settings=self.settings, base=self.base, tensors=self.tensors, hint=self.trained_on)

    def updates(self, held: AdapterTensors) -> tuple[Update, ...]:
        """Give the updates of all tensors, in the order of their targets; what replaces a tensor comes before what adds to it.

        Raises:
            InputInvalid: A tensor matches nothing, does not fit, is doubled, or lacks its other half.
            Unsupported: It changes something that is no matrix, or is stored as something that is no float.
        """
        found: list[Update] = [self._whole(name, held) for name in sorted(held.wholes)]
        self._check_copies(held)
        for module in sorted(held.modules):
            found.extend(self._module(module, held.modules[module], held))
        self._check_once(found)
        self._check_complete(held)
        rank = (ReplacedTensor, LoraPair, ExpertPair, ReplacedRows, AddedVector)
        return tuple(sorted(found, key=lambda update: (update.target, rank.index(type(update)))))

    def _module(self, module: str, parts: Mapping[Part, TensorEntry], held: AdapterTensors) -> Iterator[Update]:
        if Part.BASE_WEIGHT in parts:
            yield from self._base_copy(parts[Part.BASE_WEIGHT], self._weight(module, parts[Part.BASE_WEIGHT]))
        if Part.BASE_BIAS in parts:
            bias = self._bias(module, parts[Part.BASE_BIAS])
            if self.settings.bias == "none":
                yield from self._base_copy(parts[Part.BASE_BIAS], bias)
            else:
                yield self._replaced(parts[Part.BASE_BIAS], bias)
        pairs = [names for names in _PAIRS if any(name in parts for name in names)]
        kinds = [*(names[0] for names in pairs), *([Part.TOKENS] if Part.TOKENS in parts else [])]
        if len(kinds) > 1 or (kinds and f"{module}.weight" in held.wholes):
            other = kinds[1] if len(kinds) > 1 else "a whole weight"
            raise InputInvalid(f"{self.path}: has {kinds[0]} and {other} for {module}", hint=_AGAIN)
        for a, b in pairs:
            yield from self._low_rank(module, parts, a, b, held)
        if Part.TOKENS in parts:
            yield self._tokens(module, parts[Part.TOKENS])
        yield from self._beside_b(module, parts)

    def _low_rank(
        self, module: str, parts: Mapping[Part, TensorEntry], a_name: Part, b_name: Part, held: AdapterTensors
    ) -> Iterator[Update]:
        for name, other in ((a_name, b_name), (b_name, a_name)):
            if name not in parts:
                raise InputInvalid(f"{self.path}: has {other} but no {name} for {module}", hint=_AGAIN)
        parameter = self._experts.parameter(module, held.modules)
        pairs = self._experts.pairs(parameter, parts[a_name], parts[b_name]) if parameter else None
        if pairs is None:
            own = parameter or module_of(parts[a_name])
            yield self._pair(module, own, parts, a_name, b_name)
        else:
            yield from pairs

    def _pair(self, module: str, own: str, parts: Mapping[Part, TensorEntry], a_name: Part, b_name: Part) -> LoraPair:
        a, b, magnitude = parts[a_name], parts[b_name], parts.get(Part.MAGNITUDE)
        target = self._weight(module, a)
        if len(target.shape) != 2 or len(a.shape) != 2:
            kind = "a convolution or a stack of matrices"
            raise Unsupported(
                f"{self.path}: {a.name!r} changes {target.name}, {kind} of shape {_shown(target.shape)}",
                hint="Only updates of plain matrices can be merged.",
            )
        transposed = a_name is Part.EMBEDDING_A or is_transposed(module, self.base.architecture)
        self._check_shapes(a, b, target, own, (a_name, b_name), transposed)
        if self.settings.dora:
            self._check_magnitude(module, magnitude, b.shape[0])
        return LoraPair(
            target=target.name,
            a=a,
            b=b,
            scale=self.settings.scaling.scale_of(own),
            transposed=transposed,
            magnitude=magnitude,
        )

    def _check_shapes(
        self,
        a: TensorEntry,
        b: TensorEntry,
        target: TensorEntry,
        module: str,
        names: tuple[Part, Part],
        transposed: bool,
    ) -> None:
        for entry in (a, b):
            self._check_stored(entry, dimensions=2)
        rows, columns = reversed(target.shape) if transposed else target.shape
        where = f"{target.name} of {self.base.folder} has"
        if a.shape[1] != columns:
            raise InputInvalid(
                f"{self.path}: {module}.{names[0]} takes {a.shape[1]} inputs, {where} {columns}", hint=self.trained_on
            )
        if b.shape[0] != rows:
            raise InputInvalid(
                f"{self.path}: {module}.{names[1]} gives {b.shape[0]} outputs, {where} {rows}", hint=self.trained_on
            )
        rank = self.settings.scaling.rank_of(module)
        if a.shape[0] != rank or b.shape[1] != rank:
            raise InputInvalid(
                f"{self.settings.path}: says rank {rank} for {module}, "
                f"{names[0]} has {a.shape[0]} and {names[1]} {b.shape[1]}",
                hint="Take adapter_config.json and the weights from the same save.",
            )

    def _check_magnitude(self, module: str, magnitude: TensorEntry | None, outputs: int) -> None:
        if magnitude is None:
            raise InputInvalid(
                f"{self.path}: has no {Part.MAGNITUDE} for {module}, and {self.settings.path.name} says use_dora",
                hint="Take adapter_config.json and the weights from the same save.",
            )
        self._check_stored(magnitude, dimensions=1)
        if magnitude.shape != (outputs,):
            raise InputInvalid(
                f"{self.path}: {magnitude.name!r} has {magnitude.shape[0]} values, {module} has {outputs} outputs",
                hint=self.trained_on,
            )

    def _beside_b(self, module: str, parts: Mapping[Part, TensorEntry]) -> Iterator[Update]:
        """Check what only makes sense beside a pair, and give the update of B's bias."""
        lone = Part.A not in parts and Part.EMBEDDING_A not in parts
        magnitude, bias = parts.get(Part.MAGNITUDE), parts.get(Part.B_BIAS)
        for entry, said, key in (
            (magnitude, self.settings.dora, "use_dora"),
            (bias, self.settings.lora_bias, "lora_bias"),
        ):
            if entry is not None and (lone or not said):
                why = "there is no lora_A beside it" if lone else f"{self.settings.path.name} does not say {key}"
                raise InputInvalid(f"{self.path}: {entry.name!r} has no place: {why}", hint=_AGAIN)
        if self.settings.lora_bias and Part.B in parts:
            if bias is None:
                raise InputInvalid(f"{self.path}: has {Part.B} but no {Part.B_BIAS} for {module}", hint=_AGAIN)
            target = self._bias(module, bias)
            self._check_stored(bias, dimensions=1)
            self._check_fits(bias, target)
            yield AddedVector(target=target.name, value=bias, scale=self.settings.scaling.scale_of(module_of(bias)))

    def _tokens(self, module: str, values: TensorEntry) -> ReplacedRows:
        target = self._weight(module, values)
        rows = self._rows_of(module)
        self._check_stored(values, dimensions=2)
        if rows is None or values.shape != (len(rows), *target.shape[1:]):
            said = 0 if rows is None else len(rows)
            raise InputInvalid(
                f"{self.path}: {values.name!r} is {_shown(values.shape)}, {self.settings.path.name} names {said} tokens "
                f"and {target.name} has {_shown(target.shape)}",
                hint=self.trained_on,
            )
        if max(rows, default=0) >= target.shape[0]:
            raise InputInvalid(
                f"{self.settings.path}: trainable_token_indices has {max(rows)}, {target.name} of {self.base.folder} has "
                f"{target.shape[0]} rows",
                hint=self.trained_on,
            )
        return ReplacedRows(target=target.name, rows=rows, values=values)

    def _rows_of(self, module: str) -> tuple[int, ...] | None:
        """Give a module's trained rows; peft saves those of tied embeddings for the output layer, too, and names them once."""
        mine = self.settings.tokens_of(module, embedding=f"{module}.weight" == self.embedding)
        if mine is None and f"{module}.weight" == self.tied_output:
            return self.settings.tokens_of(self.embedding.removesuffix(".weight"), embedding=True)
        return mine

    def _whole(self, name: str, held: AdapterTensors) -> ReplacedTensor:
        return self._replaced(held.wholes[name], self.tensors[name])

    def _replaced(self, value: TensorEntry, target: TensorEntry) -> ReplacedTensor:
        self._check_stored(value, dimensions=len(target.shape))
        self._check_fits(value, target)
        return ReplacedTensor(target=target.name, value=value)

    def _base_copy(self, copy: TensorEntry, target: TensorEntry) -> Iterator[Update]:
        """Take the copy of a base tensor that peft saves beside an output layer or an embedding: new where it was resized."""
        name = self.embedding if target.name == self.tied_output else target.name
        stored = next(entry for entry in self.base.tensors if entry.name == name)
        if target.name in self.changed or stored.shape != target.shape:
            yield self._replaced(copy, target)
        elif not same_values(copy, stored):
            raise InputInvalid(
                f"{self.path}: {copy.name!r} differs from {target.name} of {self.base.folder}", hint=self.trained_on
            )

    def _check_copies(self, held: AdapterTensors) -> None:
        for name, copy in held.copies.items():
            if name not in held.wholes or not same_values(copy, held.wholes[name]):
                raise InputInvalid(f"{self.path}: {copy.name!r} differs from {name} beside it", hint=_AGAIN)
        for name, before in held.befores.items():
            if name not in held.wholes or before.shape != held.wholes[name].shape:
                raise InputInvalid(f"{self.path}: {before.name!r} has no {name} beside it", hint=_AGAIN)

    def _check_once(self, updates: list[Update]) -> None:
        """Refuse two low-rank updates of one tensor: of an expert alone, and of all experts together."""
        seen: set[str] = set()
        for update in updates:
            if isinstance(update, LoraPair | ExpertPair):
                if update.target in seen:
                    raise InputInvalid(f"{self.path}: changes {update.target} twice ({update.a.name!r})", hint=_AGAIN)
                seen.add(update.target)

    def _check_complete(self, held: AdapterTensors) -> None:
        parameters = (f"lora_A and lora_B for {name}" for name in self._experts.missing(held.modules))
        missing = next(chain(parameters, missing_tensors(self.settings, self.tensors, held, self.base)), None)
        if missing is not None:
            raise InputInvalid(
                f"{self.path}: has no {missing}, which {self.settings.path.name} says was trained",
                hint="Take adapter_config.json and the weights from the same save.",
            )

    def _check_stored(self, entry: TensorEntry, *, dimensions: int) -> None:
        if entry.dtype not in _FLOATS or len(entry.shape) != dimensions:
            raise Unsupported(
                f"{self.path}: {entry.name!r} is stored as {entry.dtype} {_shown(entry.shape)}",
                hint="Save the adapter in float32, float16 or bfloat16.",
            )

    def _check_fits(self, value: TensorEntry, target: TensorEntry) -> None:
        if value.shape != target.shape:
            raise InputInvalid(
                f"{self.path}: {value.name!r} is {_shown(value.shape)}, "
                f"{target.name} of {self.base.folder} is {_shown(target.shape)}",
                hint=self.trained_on,
            )

    def _weight(self, module: str, entry: TensorEntry) -> TensorEntry:
        found = weight_of(module, self.tensors)
        if found is None:
            raise InputInvalid(
                f"{self.path}: {entry.name!r} matches no tensor of {self.base.folder}", hint=self.trained_on
            )
        return found

    def _bias(self, module: str, entry: TensorEntry) -> TensorEntry:
        found = self.tensors.get(f"{module}.bias")
        if found is None:
            raise InputInvalid(
                f"{self.path}: {entry.name!r} is added to a bias, and {module} of {self.base.folder} has none",
                hint="Train with bias none and lora_bias false, or on a base whose layers have biases.",
            )
        return found


def _shown(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape) or "()"
