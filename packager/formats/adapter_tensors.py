"""The tensors of a PEFT file by the module that they belong to and what they are of it.

Names are those that `save_pretrained` writes, with or without the name of the default adapter in them.

Source:
    peft 0.21 `get_peft_model_state_dict`: adapter tensors, modules_to_save and trained tokens by their module's name, biases by
    their own; beside an output layer or an embedding that is a target or was resized also the layer as it was before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from packager.artifacts import TensorEntry
from packager.errors import InputInvalid
from packager.formats.adapter_kinds import other_tensor
from packager.formats.adapter_targets import checkpoint_module

K = TypeVar("K", bound=str)
PREFIX = "base_model.model."
_AGAIN = "Save the adapter again with one adapter in it."


class Part(StrEnum):
    """What a tensor is of its module, by peft's own words."""

    A = "lora_A"
    B = "lora_B"
    EMBEDDING_A = "lora_embedding_A"
    EMBEDDING_B = "lora_embedding_B"
    MAGNITUDE = "lora_magnitude_vector"
    B_BIAS = "lora_B.bias"
    TOKENS = "trainable_tokens_delta"
    BASE_WEIGHT = "base_layer.weight"
    BASE_BIAS = "base_layer.bias"


_PARTS = {
    Part.A: r"lora_A(\.default)?\.weight",
    Part.B: r"lora_B(\.default)?\.weight",
    Part.EMBEDDING_A: r"lora_embedding_A(\.default)?",
    Part.EMBEDDING_B: r"lora_embedding_B(\.default)?",
    Part.MAGNITUDE: r"lora_magnitude_vector(\.default)?(\.weight)?",
    Part.B_BIAS: r"lora_B(\.default)?\.bias",
    Part.TOKENS: r"token_adapter\.trainable_tokens_delta(\.default)?",
    Part.BASE_WEIGHT: r"(token_adapter\.)?base_layer\.weight",
    Part.BASE_BIAS: r"base_layer\.bias",
}
_PART_KEYS = {part: re.compile(rf"(?P<module>.+?)\.{pattern}") for part, pattern in _PARTS.items()}
# What peft saves beside a trained module of a resized vocabulary: the module again, and the module as it was.
_AGAIN_KEY = re.compile(r"(?P<module>.+)\.modules_to_save(\.default)?\.(?P<parameter>\w+)")
_BEFORE_KEY = re.compile(r"(?P<module>.+)\.original_module\.(?P<parameter>\w+)")


@dataclass(frozen=True, kw_only=True)
class AdapterTensors:
    """A file's tensors, each in one place.

    Attributes:
        path: The file.
        modules: Parts by module, under the name that the base has for it and without a prefix.
        wholes: Tensors that stand for a whole one of the base, by its name.
        copies: Tensors that must be equal to the whole one of that name in the same file.
        befores: What whole ones were before they were trained, by name.
    """

    path: Path
    modules: Mapping[str, Mapping[Part, TensorEntry]]
    wholes: Mapping[str, TensorEntry]
    copies: Mapping[str, TensorEntry]
    befores: Mapping[str, TensorEntry]


def sort_tensors(path: Path, entries: tuple[TensorEntry, ...], known: frozenset[str]) -> AdapterTensors:
    """Sort a file's tensors.

    Args:
        path: The file, for messages.
        entries: Its tensors.
        known: The names of the base's tensors, and of those that it may have with this adapter.

    Raises:
        InputInvalid: Two tensors are the same part of a module, or one is no part of a LoRA.
        Unsupported: A tensor is of another kind of adapter, named in the message.
    """
    modules: dict[str, dict[Part, TensorEntry]] = {}
    wholes: dict[str, TensorEntry] = {}
    copies: dict[str, TensorEntry] = {}
    befores: dict[str, TensorEntry] = {}
    for entry in entries:
        bare = _stored(entry.name.removeprefix(PREFIX), known)
        prefixed = entry.name.startswith(PREFIX)
        found = _part(bare) if prefixed else None
        if found is not None:
            _place(path, modules.setdefault(checkpoint_module(found[0], known), {}), found[1], entry)
        elif prefixed and bare in known:
            _place(path, wholes, bare, entry)
        elif again := _AGAIN_KEY.fullmatch(bare):
            _place(path, copies, f"{again['module']}.{again['parameter']}", entry)
        elif before := _BEFORE_KEY.fullmatch(bare):
            _place(path, befores, f"{before['module']}.{before['parameter']}", entry)
        else:
            raise other_tensor(path, entry.name)
    return AdapterTensors(path=path, modules=modules, wholes=wholes, copies=copies, befores=befores)


def module_of(entry: TensorEntry) -> str:
    """Give the name that the adapter has for the module of a part; it is what patterns of the configuration mean."""
    found = _part(entry.name.removeprefix(PREFIX))
    return found[0] if found else ""


def _stored(name: str, known: frozenset[str]) -> str:
    """Give the name of a whole tensor as the base has it."""
    module, _, parameter = name.rpartition(".")
    stored = f"{checkpoint_module(module, known)}.{parameter}"
    return stored if stored in known else name


def _part(name: str) -> tuple[str, Part] | None:
    for part, key in _PART_KEYS.items():
        if match := key.fullmatch(name):
            return match["module"], part
    return None


def _place(path: Path, held: dict[K, TensorEntry], key: K, entry: TensorEntry) -> None:
    if key in held:
        raise InputInvalid(f"{path}: {held[key].name!r} and {entry.name!r} change the same tensor", hint=_AGAIN)
    held[key] = entry
