"""PEFT folders as a checked value: every tensor of their files in exactly one update of the base.

Unlike `PeftModel.from_pretrained`, which warns about keys it does not know and leaves the module untouched, a tensor
that has no place in the base is an error here, and so is every adapter kind that cannot be merged exactly as peft does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from packager.artifacts import Adapter, AdapterStep, Checkpoint, TensorEntry, Update
from packager.errors import InputInvalid, UnsafeInput, Unsupported
from packager.formats.adapter_kinds import refuse_other_kinds
from packager.formats.adapter_match import Matcher
from packager.formats.adapter_settings import AdapterSettings
from packager.formats.adapter_tensors import sort_tensors
from packager.formats.adapter_vocabulary import larger_tokenizer
from packager.formats.checkpoint import folder_name, list_names
from packager.formats.fine_tuned import fine_tuned
from packager.formats.json_file import JsonObject, read_object, refuse_code
from packager.formats.recorded_base import check_recorded_base, trained_on
from packager.formats.safetensors import read_header
from packager.formats.tied_embeddings import Embeddings
from packager.formats.tokenizer import read_chat_template

WEIGHTS = "adapter_model.safetensors"


def read_adapter(folder: Path, base: Checkpoint) -> Adapter:
    """Give the updates of a PEFT folder, each matched with the tensor of `base` that it changes; see `read_adapters`."""
    return read_adapters((folder,), base)


def read_adapters(folders: tuple[Path, ...], base: Checkpoint) -> Adapter:
    """Give the updates of PEFT folders, each folder matched with what the ones before it made of `base`.

    Scales follow peft: `alpha / rank`, `alpha / sqrt(rank)` under rsLoRA, with alpha_pattern and rank_pattern by
    peft's regex rules. docs/adapters.md lists what is merged and what is refused.

    Args:
        folders: At least one; the first was trained on the base, each other one on the result of those before it.
        base: The base.

    Raises:
        InputInvalid: A file is missing or damaged, or a tensor does not fit the base; the message has both values.
        UnsafeInput: The weights are a pickle, or a configuration asks for code.
        Unsupported: An adapter is of a kind that cannot be merged, named in the message.
    """
    step = _read_step(folders[0], base, None)
    found = Adapter(
        steps=(step.step,),
        name=folder_name(folders[0]),
        base_name=step.base_name,
        updates=step.updates,
        chat_template=read_chat_template(folders[0]),
        output_layer=step.output_layer,
    )
    for folder in folders[1:]:
        if step.doubled:
            raise Unsupported(
                f"{found.folder}: was trained with ensure_weight_tying on the embedding, and peft merges that into both ends",
                hint="Only the last adapter can be of this kind.",
            )
        step = _read_step(folder, base, found)
        found = replace(
            found,
            steps=(*found.steps, step.step),
            name=folder_name(folder),
            updates=(*found.updates, *_untied_before(found, step), *step.updates),
            chat_template=read_chat_template(folder) or found.chat_template,
            output_layer=step.output_layer or found.output_layer,
        )
    return replace(found, tokenizer_folder=larger_tokenizer(base, found))


@dataclass(frozen=True, kw_only=True)
class _Step:
    """One folder: its updates, and the tied output layer with the base's embedding as its values where it is untied here."""

    step: AdapterStep
    base_name: str | None
    updates: tuple[Update, ...]
    embedding: str
    output_layer: TensorEntry | None
    doubled: bool


def _read_step(folder: Path, base: Checkpoint, before: Adapter | None) -> _Step:
    config = _read_config(folder)
    refuse_other_kinds(config)
    settings = AdapterSettings.read(config)
    base_name = config.text("base_model_name_or_path") or None
    if before is None:
        check_recorded_base(config, base)
    path, current = folder / WEIGHTS, fine_tuned(base, before)
    ends = Embeddings.of(path, current)
    held = sort_tensors(path, read_header(path), frozenset(ends.tensors()))
    ends = ends.resized(held)
    matcher = Matcher(
        path=path,
        settings=settings,
        base=current,
        tensors=ends.tensors(),
        embedding=ends.embedding.name if ends.embedding else "",
        tied_output=ends.tied_output,
        changed=ends.shared(before.targets) if before else frozenset(),
        trained_on=trained_on(base_name, base),
    )
    tied = ends.tied(matcher.updates(held), held, settings)
    if not tied.updates:
        raise InputInvalid(f"{path}: holds no LoRA tensor", hint="Pass an adapter saved after training.")
    return _Step(
        step=AdapterStep(folder=folder, unties=tied.unties, vocab_size=ends.vocab_size),
        base_name=base_name,
        updates=tied.updates,
        embedding=matcher.embedding,
        output_layer=ends.output if tied.unties else None,
        doubled=tied.doubled,
    )


def _untied_before(before: Adapter, step: _Step) -> tuple[Update, ...]:
    """Give an output layer that is untied now what earlier folders did to the embedding while it shared it."""
    if step.output_layer is None:
        return ()
    name = step.output_layer.name
    return tuple(replace(update, target=name) for update in before.updates if update.target == step.embedding)


def _read_config(folder: Path) -> JsonObject:
    names = list_names(folder)
    if "adapter_config.json" not in names:
        raise InputInvalid(f"{folder}: no adapter_config.json", hint=_missing_config_hint(folder, names))
    config = read_object(folder / "adapter_config.json")
    refuse_code(config)
    if "tokenizer_config.json" in names:
        refuse_code(read_object(folder / "tokenizer_config.json"))
    if WEIGHTS not in names:
        if "adapter_model.bin" in names:
            raise UnsafeInput(
                f"{folder}: adapter_model.bin is a pickle, which can run code when it is opened; there is no {WEIGHTS}",
                hint="Convert it where you trust it: PeftModel.from_pretrained(BASE_MODEL, DIR).save_pretrained(DIR)",
            )
        raise InputInvalid(f"{folder}: no {WEIGHTS}", hint="Copy the whole folder that peft's save_pretrained wrote.")
    return config


def _missing_config_hint(folder: Path, names: tuple[str, ...]) -> str:
    numbers = [int(match[1]) for name in names if (match := re.fullmatch(r"checkpoint-(\d{1,12})", name, re.ASCII))]
    saved = [path for n in sorted(numbers) if ((path := folder / f"checkpoint-{n}") / "adapter_config.json").is_file()]
    if saved:
        return f"Pass the newest checkpoint: {saved[-1]}"
    if "config.json" in names:
        return f"This is a base; without an adapter, run: packager build {folder} -o DIR"
    return "Pass the folder that peft's save_pretrained wrote."
