"""Safetensors files that lie otherwise than transformers looks for them: shards without an index, or under other names.

Engines load `model.safetensors` or what `model.safetensors.index.json` lists, and nothing else. Where neither is there, a
folder of links gets the missing index, so that the merge, llama.cpp and the reference all read the same tensors.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from packager.errors import InputInvalid, Unsupported
from packager.formats.checkpoint import folder_name, list_names
from packager.formats.json_file import read_object
from packager.formats.safetensors import read_header
from packager.formats.weight_files import INDEX, SINGLE, read_shards
from packager.sources.linked_folder import fingerprint, link_small_files, made_once, small_files

_KIND = "layouts"
_OWN_LAYOUT = "consolidated"  # Mistral's, with names of its own; transformers reads the other files beside it
_NO_MODEL = (_OWN_LAYOUT, "adapter_", "value_head", "optimizer", ".", "-")
_NUMBERED = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors", re.ASCII)
_BLOCK = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d{1,5})\.")
_BLOCK_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


def usual_layout(folder: Path) -> Path:
    """Give a folder whose weights transformers finds: the folder itself, or one of links to its files.

    Raises:
        InputInvalid: A shard is missing, two hold the same tensor, or there are two models.
        Unsupported: The weights are only there in Mistral's own layout.
    """
    names = list_names(folder)
    files = [name for name in names if name.endswith(".safetensors") and not name.startswith(_NO_MODEL)]
    if "config.json" not in names or SINGLE in names or INDEX in names:
        return folder
    if not files:
        _refuse_own_layout(folder, names)
        return folder
    indexes = [name for name in names if name.endswith(".safetensors.index.json") and not name.startswith(_NO_MODEL)]
    if len(indexes) > 1:
        raise InputInvalid(
            f"{folder}: has two indexes, {indexes[0]} and {indexes[1]}", hint="Remove the one of another model."
        )
    links, index = {name: folder / name for name in files}, None
    if indexes:
        read_shards(folder, folder / indexes[0])  # faults are told with the user's own path
        links[INDEX] = folder / indexes[0]
    elif len(files) == 1 and _NUMBERED.fullmatch(files[0]) is None:
        read_header(folder / files[0])
        links = {SINGLE: folder / files[0]}
    else:
        index = json.dumps({"metadata": {}, "weight_map": _weight_map(folder, files)}, indent=2, sort_keys=True)

    def make(staging: Path) -> None:
        link_small_files(folder, staging)
        for name, target in links.items():
            (staging / name).symlink_to(target.absolute())
        if index is not None:
            (staging / INDEX).write_text(index, encoding="utf-8")

    weights = [folder / name for name in names if (folder / name).is_file()]
    key = fingerprint([*weights, *small_files(folder)], index or "")
    return made_once(_KIND, key, folder_name(folder), make)


def _refuse_own_layout(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        if name.startswith(_OWN_LAYOUT) and name.endswith(".safetensors"):
            raise Unsupported(
                f"{folder}: {name} is in Mistral's own layout, and there is no {SINGLE} and no {INDEX}",
                hint="Download the model's other safetensors files as well.",
            )


def _weight_map(folder: Path, files: list[str]) -> dict[str, str]:
    """Give the shard of every tensor."""
    _check_numbers(folder, files)
    places: dict[str, str] = {}
    for name in files:
        for entry in read_header(folder / name):
            if entry.name in places:
                raise InputInvalid(
                    f"{folder}: {places[entry.name]} and {name} both hold {entry.name}",
                    hint=f"Remove the file of another save, or download {INDEX}.",
                )
            places[entry.name] = name
    _check_blocks(folder, places)
    return places


def _check_numbers(folder: Path, files: list[str]) -> None:
    """Refuse shards that are numbered and not all there."""
    numbered = [match for name in files if (match := _NUMBERED.fullmatch(name))]
    if not numbered:
        return
    stem, count = numbered[0]["stem"], numbered[0]["count"]
    for name in files:
        match = _NUMBERED.fullmatch(name)
        if match is None or (match["stem"], match["count"]) != (stem, count):
            raise InputInvalid(
                f"{folder}: {name} is no part of {numbered[0][0]}, and no index says which ones count",
                hint=f"Remove it, or download {INDEX}.",
            )
    held = {int(match["number"]) for match in numbered}
    for number in range(1, int(count) + 1):
        if number not in held:
            missing = f"{stem}-{number:05d}-of-{count}.safetensors"
            raise InputInvalid(
                f"{folder / missing}: no such file, but {files[0]} is there", hint="Download the missing shard."
            )


def _check_blocks(folder: Path, places: dict[str, str]) -> None:
    """Refuse a model with a block missing, which an index would have shown."""
    config = read_object(folder / "config.json")
    text = config.child("text_config") or config
    count = next((value for key in _BLOCK_COUNTS if (value := text.integer(key)) is not None), None)
    held = {int(match[1]) for name in places if (match := _BLOCK.search(name))}
    for number in range(count or 0):
        if held and number not in held:
            raise InputInvalid(
                f"{folder}: config.json says {count} blocks, no tensor of block {number} is in any file",
                hint="Download the missing shard.",
            )
