"""What an adapter means for embeddings that share their weights with the output layer, and for a vocabulary of another size.

peft adapts the embedding and the output layer apart, even where they share one weight: what the other side computes with does
not change. Merged, the two are different tensors, so they are untied, unless peft itself trained both as one (trained tokens,
`ensure_weight_tying`) or trained neither.

Source:
    peft 0.21 `set_additional_trainable_modules`, `LoraModel._add_targets_to_tie`, `_add_modules_to_save_to_tie`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from packager.artifacts import Checkpoint, LoraPair, ReplacedTensor, TensorEntry, Update
from packager.errors import InputInvalid, Unsupported
from packager.formats.adapter_settings import AdapterSettings
from packager.formats.adapter_tensors import AdapterTensors, Part
from packager.formats.fine_tuned import embedding_of, output_layer_name
from packager.formats.tensor_bytes import is_transpose, same_values


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """The two ends of a model, as one PEFT folder sees them.

    Attributes:
        path: The folder's weights, for messages.
        base: What it is merged into.
        embedding: The input embedding; None where the architecture has none of a known name.
        output: The output layer, with the embedding's place in the file where the two are tied.
        vocab_size: The rows that the folder gives both; None leaves them.
    """

    path: Path
    base: Checkpoint
    embedding: TensorEntry | None
    output: TensorEntry | None
    vocab_size: int | None

    @staticmethod
    def of(path: Path, base: Checkpoint) -> Embeddings:
        """Find both ends of what the folder is merged into."""
        embedding, name = embedding_of(base.tensors), output_layer_name(base)
        output = next((entry for entry in base.tensors if entry.name == name), None)
        if base.ties_embeddings and embedding is not None:
            output = replace(embedding, name=name)
        return Embeddings(path=path, base=base, embedding=embedding, output=output, vocab_size=None)

    def resized(self, held: AdapterTensors) -> Embeddings:
        """Give both ends with the number of rows that the file's copies of them have.

        Raises:
            InputInvalid: The copies have different numbers of rows, or one end keeps another number of rows.
        """
        ends = [entry for entry in (self.embedding, self.output) if entry is not None]
        rows = {entry.name: copy.shape[0] for entry in ends if (copy := _whole(entry.name, held)) and copy.shape}
        changed = {count for count in rows.values() if count != self.base.vocab_size}
        if not changed:
            return self
        if not self.base.ties_embeddings:
            rows = {entry.name: rows.get(entry.name, entry.shape[0]) for entry in ends}
        if len(set(rows.values())) > 1:
            (one, count), (other, others) = list(rows.items())[:2]
            raise InputInvalid(
                f"{self.path}: gives {one} {count} rows and {other} {others}",
                hint="Save the adapter with save_embedding_layers=True after resize_token_embeddings.",
            )
        return replace(self, vocab_size=changed.pop())

    def tensors(self) -> dict[str, TensorEntry]:
        """Give the tensors that the folder may change, with the shapes that they have afterwards."""
        found = {entry.name: entry for entry in self.base.tensors}
        for entry in (self.embedding, self.output):
            if entry is not None:
                rows = self.vocab_size or entry.shape[0]
                found[entry.name] = replace(entry, shape=(rows, *entry.shape[1:]))
        return found

    @property
    def tied_output(self) -> str:
        """The output layer's tensor where it shares the embedding's, else empty."""
        return self.output.name if self.base.ties_embeddings and self.output is not None else ""

    def shared(self, targets: frozenset[str]) -> frozenset[str]:
        """Give the changed tensors with the output layer, where it shares a changed embedding's."""
        changed = self.embedding is not None and self.embedding.name in targets and self.tied_output
        return targets | {self.tied_output} if changed else targets

    def tied(self, updates: tuple[Update, ...], held: AdapterTensors, settings: AdapterSettings) -> TiedUpdates:
        """Decide whether tied ends stay tied, and give the updates of each end.

        Raises:
            InputInvalid: Both ends were trained as one, and the file has different values for them.
            Unsupported: Trained together in a way that peft computes otherwise unmerged than merged.
        """
        if not self.base.ties_embeddings or self.embedding is None or self.output is None:
            return TiedUpdates(updates=updates, unties=False)
        ends = _TiedEnds(
            path=self.path, embedding=self.embedding, output=self.output, resized=self.vocab_size is not None
        )
        return ends.decide(updates, held, settings)


@dataclass(frozen=True, kw_only=True)
class TiedUpdates:
    """A folder's updates.

    Attributes:
        updates: All of them, those of ends that stay tied once.
        unties: Whether they give tied ends weights of their own.
        doubled: Whether peft would add one of them to both ends of one weight, were it merged by peft.
    """

    updates: tuple[Update, ...]
    unties: bool
    doubled: bool = False


@dataclass(frozen=True, kw_only=True)
class _TiedEnds:
    path: Path
    embedding: TensorEntry
    output: TensorEntry
    resized: bool

    def decide(self, updates: tuple[Update, ...], held: AdapterTensors, settings: AdapterSettings) -> TiedUpdates:
        ends = {self.embedding.name, self.output.name}
        mine = tuple(update for update in updates if update.target in ends)
        if not mine:
            return TiedUpdates(updates=updates, unties=False)
        rest = tuple(update for update in updates if update.target not in ends)
        if self._stay(held, settings):
            one = self._as_one(mine, held)
            doubled = any(isinstance(update, LoraPair) for update in one)
            return TiedUpdates(updates=(*one, *rest), unties=False, doubled=doubled)
        return TiedUpdates(updates=(*self._shared(held), *mine, *rest), unties=True)

    def _stay(self, held: AdapterTensors, settings: AdapterSettings) -> bool:
        modules = [_module(entry) for entry in (self.embedding, self.output)]
        parts = [held.modules.get(module, {}) for module in modules]
        pairs = any(part in found for found in parts for part in (Part.A, Part.EMBEDDING_A))
        if settings.ties and settings.dora and pairs:
            raise Unsupported(
                f"{self.path}: DoRA on embeddings that ensure_weight_tying keeps tied, which peft computes otherwise "
                "unmerged than merged",
                hint="Train without ensure_weight_tying, or without the embedding.",
            )
        tokens = [settings.tokens_of(module, embedding=at == 0) for at, module in enumerate(modules)]
        whole = any(settings.saves(module) for module in modules)
        if tokens[0] is not None and tokens[1] in (None, tokens[0]):
            if pairs or whole:
                raise Unsupported(
                    f"{self.path}: trained tokens and another update of tied embeddings", hint="Train with one of them."
                )
            return True
        return tokens == [None, None] and (settings.ties or not (pairs or whole))

    def _as_one(self, mine: tuple[Update, ...], held: AdapterTensors) -> tuple[Update, ...]:
        """Give the updates of both ends as updates of the embedding, having compared them."""
        kept = tuple(update for update in mine if update.target == self.embedding.name)
        other = tuple(update for update in mine if update.target == self.output.name)
        if not kept:
            return tuple(replace(update, target=self.embedding.name) for update in other)
        first, second = (held.modules.get(_module(entry), {}) for entry in (self.embedding, self.output))
        wholes = [held.wholes[entry.name] for entry in (self.output, self.embedding) if entry.name in held.wholes]
        equal = [same_values(wholes[0], wholes[1])] if len(wholes) == 2 else []
        equal += [same_values(second[part], first[part]) for part in (Part.TOKENS, Part.BASE_WEIGHT) if part in second]
        if Part.A in second:
            equal += [
                Part.EMBEDDING_B in first and is_transpose(second[Part.A], first[Part.EMBEDDING_B]),
                Part.EMBEDDING_A in first and is_transpose(second[Part.B], first[Part.EMBEDDING_A]),
            ]
        if not all(equal):
            raise InputInvalid(
                f"{self.path}: {self.embedding.name} and {self.output.name} were trained as one and differ",
                hint="Save the adapter again.",
            )
        return kept

    def _shared(self, held: AdapterTensors) -> tuple[Update, ...]:
        """Give an end that the file has no copy of the other's values, where those are of both: resized before training."""
        found: list[Update] = []
        for entry, other in ((self.embedding, self.output), (self.output, self.embedding)):
            shared = held.modules.get(_module(other), {}).get(Part.BASE_WEIGHT)
            if self.resized and _whole(entry.name, held) is None and shared is not None:
                found.append(ReplacedTensor(target=entry.name, value=shared))
        return tuple(found)


def _whole(name: str, held: AdapterTensors) -> TensorEntry | None:
    copy: Mapping[Part, TensorEntry] = held.modules.get(name.removesuffix(".weight"), {})
    return held.wholes.get(name) or copy.get(Part.BASE_WEIGHT)


def _module(entry: TensorEntry) -> str:
    return entry.name.removesuffix(".weight")
