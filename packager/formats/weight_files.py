"""The tensors of a checkpoint folder, from one safetensors file or from the shards an index names.

Unlike transformers, which loads what it finds, index and shards have to agree on every tensor.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from packager.artifacts import Dtype, TensorEntry
from packager.errors import InputInvalid, UnsafeInput, Unsupported
from packager.formats.json_file import JsonObject, parse_object, read_text
from packager.formats.safetensors import read_header

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_DTYPES = {"F32": Dtype.FLOAT32, "BF16": Dtype.BFLOAT16, "F16": Dtype.FLOAT16}
# Position ids, causal masks and step counters that old checkpoints carry; no engine loads them as weights.
_BUFFERS = frozenset({"BOOL", "U8", "I32", "I64"})


def read_weights(folder: Path) -> tuple[TensorEntry, ...]:
    """Give every tensor of a checkpoint folder, sorted by name.

    Raises:
        InputInvalid: A file is missing or damaged, or index and shards disagree; the message names file and tensor.
        UnsafeInput: The index places a tensor outside the folder.
    """
    single, index = folder / SINGLE, folder / INDEX
    if single.exists() and index.exists():
        raise InputInvalid(
            f"{folder}: holds both {SINGLE} and {INDEX}; engines disagree on which one counts",
            hint="Remove the one that is out of date.",
        )
    tensors = read_shards(folder, index) if index.exists() or index.is_symlink() else read_header(single)
    if not tensors:
        raise InputInvalid(f"{folder}: the weights hold no tensor", hint="Download the model again.")
    return tuple(sorted(tensors, key=lambda entry: entry.name))


def main_dtype(folder: Path, tensors: tuple[TensorEntry, ...]) -> Dtype:
    """Give the element type that most bytes of the weights are stored in.

    Raises:
        Unsupported: A weight is of a type that cannot be merged exactly, such as float8 or packed integers.
        InputInvalid: No tensor is of a floating type.
    """
    sizes: Counter[str] = Counter()
    for entry in tensors:
        if entry.dtype in _DTYPES:
            sizes[entry.dtype] += entry.size_bytes
        elif entry.dtype not in _BUFFERS or entry.name.endswith((".weight", "_proj")):
            raise Unsupported(
                f"{entry.file}: {entry.name} is stored as {entry.dtype}; packager reads F32, BF16 and F16 weights",
                hint="Pass the 16-bit version of this model.",
            )
    if not sizes:
        raise InputInvalid(f"{folder}: the weights hold no F32, BF16 or F16 tensor", hint="Download the model again.")
    return _DTYPES[sizes.most_common(1)[0][0]]


def read_shards(folder: Path, index: Path) -> tuple[TensorEntry, ...]:
    """Give every tensor that an index places in the shards of a folder, which hold these and no others.

    Raises:
        InputInvalid: As for `read_weights`.
        UnsafeInput: The index places a tensor outside the folder.
    """
    values = parse_object(read_text(index), path=index, unique_keys=True)
    weight_map = JsonObject(path=index, values=values).child("weight_map")
    if weight_map is None or not weight_map.values:
        raise InputInvalid(f"{index}: has no weight_map", hint="Download the index again.")
    wanted: dict[str, set[str]] = {}
    for name in weight_map.values:
        shard = weight_map.text(name) or ""
        if not _is_plain_name(shard):
            raise UnsafeInput(
                f"{index}: tensor {name!r} is in {shard[:80]!r}, which is no file name of this folder",
                hint="Download the index again.",
            )
        wanted.setdefault(shard, set()).add(name)
    tensors: list[TensorEntry] = []
    for shard in sorted(wanted):
        tensors.extend(_read_shard(folder / shard, wanted[shard], index))
    return tuple(tensors)


def _read_shard(path: Path, wanted: set[str], index: Path) -> tuple[TensorEntry, ...]:
    if not path.exists():
        raise InputInvalid(f"{path}: no such file, but {index.name} names it", hint="Download the missing shard.")
    entries = read_header(path)
    held = {entry.name for entry in entries}
    if missing := sorted(wanted - held):
        raise InputInvalid(
            f"{path}: does not hold {missing[0]}, which {index.name} places there", hint="Download both files again."
        )
    if extra := sorted(held - wanted):
        raise InputInvalid(
            f"{path}: holds {extra[0]}, which {index.name} does not place there", hint="Download both files again."
        )
    return entries


def _is_plain_name(name: str) -> bool:
    return name.endswith(".safetensors") and name.isprintable() and not re.search(r"[/\\]|^\.|^-", name)
