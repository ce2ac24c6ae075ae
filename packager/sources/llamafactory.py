"""What a yaml of LLaMA-Factory makes: from which base, with which adapters in which order, and where the result lies.

Two kinds are told apart as LLaMA-Factory does: one that trains (`do_train`), whose result is in `output_dir`; one that exports
(`export_dir`) or chats, which only applies adapters that are there. The file is read, and never given to OmegaConf.

Worked example, for a yaml with `do_train: true`, `adapter_name_or_path: sft` and `output_dir: dpo`:
    LLaMA-Factory goes on training `sft` and saves it, changed, in `dpo`: the fine-tune is `dpo` alone.
    With `create_new_adapter: true` it merges `sft` first and trains a new one: the fine-tune is `sft`, then `dpo`.

Source: LLaMA-Factory 0.9.5, `model/adapter.py` (`_setup_lora_tuning`), `hparams/parser.py`, `hparams/model_args.py`,
`extras/misc.py` (`try_download_model_from_other_hub`), `train/callbacks.py` (`PissaConvertCallback`).
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packager.errors import InputInvalid, Unsupported
from packager.formats.yaml_file import SUFFIXES, read_yaml
from packager.sources.llamafactory_data import training_files

_BASE, _ADAPTERS, _OUTPUT = "model_name_or_path", "adapter_name_or_path", "output_dir"
_WITH_ADAPTER = ("lora", "oft")
_WHOLE_MODEL = ("full", "freeze")


@dataclass(frozen=True, kw_only=True)
class NamedPlace:
    """A path or a hub's id as the yaml has it; `key` says where."""

    key: str
    text: str


@dataclass(frozen=True, kw_only=True)
class LlamaFactoryModel:
    """The model that a yaml of LLaMA-Factory makes.

    Attributes:
        file: The yaml.
        base: What the adapters are added to; of full or freeze training the result itself.
        adapters: In the order in which they are added; none for a full fine-tune.
        names_template: Whether it names the chat template; without one LLaMA-Factory takes the base's.
        hub: What stands before an id that no folder has: `ms:` where LLaMA-Factory was told to use ModelScope, else nothing.
        revision: Of the base and of every adapter, None for the newest.
        notes: What the user may want to know.
    """

    file: Path
    base: NamedPlace
    adapters: tuple[NamedPlace, ...]
    names_template: bool
    hub: str
    revision: str | None
    notes: tuple[str, ...]


def is_llamafactory_file(path: Path) -> bool:
    """Say whether a path is a file that can be a configuration of LLaMA-Factory."""
    return path.suffix.lower() in SUFFIXES and path.is_file()


def read_llamafactory(path: Path) -> LlamaFactoryModel:
    """Give the model that a train, export or inference yaml makes.

    Raises:
        InputInvalid: It is damaged, is not LLaMA-Factory's, or contradicts itself.
        Unsupported: It makes no model that answers in text.
    """
    values = read_yaml(path)
    if _text(path, values, _BASE) is None:
        other = "training_args.yaml beside it" if "top.model_name" in values else "a train or export yaml, or a folder"
        raise InputInvalid(f"{path}: no {_BASE}, so it is no configuration of LLaMA-Factory", hint=f"Pass {other}.")
    if _text(path, values, "stage") == "rm":
        raise Unsupported(
            f"{path}: stage rm trains a reward model, which gives a number and no text",
            hint="Pass the yaml of the sft, dpo, kto or ppo stage.",
        )
    base, adapters = _result(path, values)
    return LlamaFactoryModel(
        file=path,
        base=base,
        adapters=adapters,
        names_template=_text(path, values, "template") is not None,
        hub="ms:" if os.environ.get("USE_MODELSCOPE_HUB", "0").lower() in ("true", "y", "1") else "",
        revision=_text(path, values, "model_revision"),
        notes=_notes(path, values, adapters),
    )


def _result(path: Path, values: Mapping[str, object]) -> tuple[NamedPlace, tuple[NamedPlace, ...]]:
    base = NamedPlace(key=_BASE, text=_text(path, values, _BASE) or "")
    method = _text(path, values, "finetuning_type") or "lora"
    named = _adapters(path, values)
    if method not in (*_WITH_ADAPTER, *_WHOLE_MODEL):
        raise InputInvalid(
            f"{path}: finetuning_type is {method!r}, LLaMA-Factory knows {', '.join((*_WITH_ADAPTER, *_WHOLE_MODEL))}",
            hint="Pass the yaml that LLaMA-Factory was run with.",
        )
    if method in _WHOLE_MODEL and named:
        raise InputInvalid(
            f"{path}: has {_ADAPTERS} and finetuning_type {method}, which has no adapter",
            hint="Pass the yaml that LLaMA-Factory was run with.",
        )
    if values.get("do_train") is not True:
        return base, named
    trained = _trained(path, values)
    if method in _WHOLE_MODEL:
        return trained, ()
    before = named if values.get("create_new_adapter") is True else named[:-1]
    return base, (*before, trained)


def _adapters(path: Path, values: Mapping[str, object]) -> tuple[NamedPlace, ...]:
    listed = values.get(_ADAPTERS)
    texts = listed if isinstance(listed, tuple) else (_text(path, values, _ADAPTERS) or "").split(",")
    below = _text(path, values, "adapter_folder")
    found = []
    for text in (str(text).strip() for text in texts):
        if text:
            whole = f"{text}/{below}" if below else text
            found.append(NamedPlace(key=_ADAPTERS, text=_literal(path, _ADAPTERS, whole)))
    return tuple(found)


def _trained(path: Path, values: Mapping[str, object]) -> NamedPlace:
    folder = _text(path, values, _OUTPUT)
    if folder is None:
        raise InputInvalid(
            f"{path}: trains (do_train) and has no {_OUTPUT}", hint="Pass BASE and ADAPTER as folders instead."
        )
    if values.get("pissa_init") is True and values.get("pissa_convert") is True:
        folder = f"{folder}/pissa_converted"  # the adapter beside it is one of the base less its principal part
    return NamedPlace(key=_OUTPUT, text=folder)


def _text(path: Path, values: Mapping[str, object], key: str) -> str | None:
    value = values.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        shown = value[1] if isinstance(value, tuple) and len(value) == 2 else value
        raise InputInvalid(f"{path}: {key} is {shown!r}, expected a text", hint="Put it into quotation marks.")
    return _literal(path, key, value) or None


def _literal(path: Path, key: str, text: str) -> str:
    if "${" in text:
        raise InputInvalid(f"{path}: {key} is {text!r}, which OmegaConf fills in", hint="Write the value itself there.")
    return text


def _notes(path: Path, values: Mapping[str, object], adapters: tuple[NamedPlace, ...]) -> tuple[str, ...]:
    bits = values.get("quantization_bit")
    notes = [
        f"{file}: trained with it; --data {shlex.quote(str(file))} compares along it" for file in training_files(values)
    ]
    if bits is not None and adapters:
        shown = bits[1] if isinstance(bits, tuple) else bits
        notes.append(f"{path.name}: trained on the base in {shown} bits; the update is added to the base as it is")
    return tuple(notes)
