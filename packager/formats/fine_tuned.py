"""What an adapter makes of a checkpoint besides new values: names, shapes, and what config.json says of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from packager.artifacts import Adapter, Checkpoint, TensorEntry

# The modules that peft takes for embeddings (`EMBEDDING_LAYER_NAMES`), by the architectures' own words, and the output layer
# beside each.
_OUTPUT_OF = {
    "embed_tokens": "lm_head",
    "tok_embeddings": "output",
    "word_embeddings": "lm_head",
    "wte": "lm_head",
    "embed_in": "embed_out",
}
OUTPUT_MODULES = frozenset(_OUTPUT_OF.values())


def embedding_of(tensors: tuple[TensorEntry, ...]) -> TensorEntry | None:
    """Give the input embedding's tensor, None where no name is known to be one."""
    for entry in tensors:
        if len(entry.shape) == 2 and _module(entry.name) in _OUTPUT_OF:
            return entry
    return None


def output_layer_name(base: Checkpoint) -> str:
    """Give the output layer's tensor: the one that is stored, or the name that it has beside the base's embedding."""
    for entry in base.tensors:
        if len(entry.shape) == 2 and _is_output(entry.name):
            return entry.name
    embedding = embedding_of(base.tensors)
    return f"{_OUTPUT_OF.get(_module(embedding.name), 'lm_head') if embedding else 'lm_head'}.weight"


def fine_tuned(base: Checkpoint, adapter: Adapter | None) -> Checkpoint:
    """Give the base with the tensors, shapes and vocabulary that it has once the adapter is merged; values stay where they are.

    A tensor whose rows are the vocabulary has the adapter's number of rows, though its file and offset are the base's; the
    output layer that is untied has the base's embedding as its values.
    """
    if adapter is None:
        return base
    tensors = {entry.name: entry for entry in base.tensors}
    if adapter.output_layer is not None:
        tensors[adapter.output_layer.name] = adapter.output_layer
    if adapter.vocab_size is not None:
        embedding = embedding_of(base.tensors)
        for name in (embedding.name if embedding else "", output_layer_name(base)):
            if name in tensors:
                tensors[name] = replace(tensors[name], shape=(adapter.vocab_size, *tensors[name].shape[1:]))
    return replace(
        base,
        tensors=tuple(tensors[name] for name in sorted(tensors)),
        ties_embeddings=base.ties_embeddings and adapter.output_layer is None,
        vocab_size=adapter.vocab_size or base.vocab_size,
    )


def tokenizer_folder(base: Checkpoint, adapter: Adapter | None) -> Path:
    """Give the folder whose tokenizer the fine-tune uses: the adapter's where it has more tokens, else the base's."""
    return base.folder if adapter is None or adapter.tokenizer_folder is None else adapter.tokenizer_folder


def changed_config(values: Mapping[str, object], base: Checkpoint, adapter: Adapter | None) -> dict[str, object]:
    """Give config.json's values with the vocabulary and the tie that they have once the adapter is merged.

    A size is written where the config has it, at the top and in `text_config`; a tie that ends always at the top as well,
    because its default differs between architectures.
    """
    after = fine_tuned(base, adapter)
    sizes = {"vocab_size": after.vocab_size, "n_vocab": after.vocab_size} if after.vocab_size != base.vocab_size else {}
    untied = {"tie_word_embeddings": False} if after.ties_embeddings != base.ties_embeddings else {}
    changed: dict[str, object] = {**values, **{key: size for key, size in sizes.items() if key in values}, **untied}
    text = values.get("text_config")
    if isinstance(text, dict):
        changed["text_config"] = {key: {**sizes, **untied}.get(key, value) for key, value in text.items()}
    return changed


def resized_config(values: Mapping[str, object], vocab_size: int) -> dict[str, object]:
    """Give config.json's values with another size of the vocabulary, where it has one: at the top and in `text_config`."""

    def sized(found: Mapping[str, object]) -> dict[str, object]:
        return {key: vocab_size if key in ("vocab_size", "n_vocab") else value for key, value in found.items()}

    text = values.get("text_config")
    return {**sized(values), **({"text_config": sized(text)} if isinstance(text, dict) else {})}


def _is_output(name: str) -> bool:
    return name.endswith(".weight") and _module(name) in OUTPUT_MODULES and name.count(".") <= 2


def _module(name: str) -> str:
    return name.removesuffix(".weight").rsplit(".", 1)[-1]
