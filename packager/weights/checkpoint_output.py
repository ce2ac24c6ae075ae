"""The merged checkpoint as safetensors files, written block by block: header first, then each tensor in its place.

Unlike `save_pretrained`, no tensor is held whole, and the same input gives the same bytes. Tensors stand in the order of their
names; a file holds at most 5 GB of them, unless one alone is larger.

Source:
    https://github.com/huggingface/safetensors#format; shard names and index as `transformers` writes them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from packager.artifacts import Dtype
from packager.errors import InputInvalid
from packager.weights.gguf_output import disk_errors
from packager.weights.merged import MergedTensors, byte_view, is_finite, matrix_shape, row_blocks

MAX_SHARD_BYTES = 5_000_000_000
INDEX_NAME = "model.safetensors.index.json"

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DTYPES = {Dtype.FLOAT32: torch.float32, Dtype.BFLOAT16: torch.bfloat16, Dtype.FLOAT16: torch.float16}


@dataclass(frozen=True, kw_only=True)
class PlannedTensor:
    """One tensor of the checkpoint as it will be stored."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    size_bytes: int


def planned_tensors(merged: MergedTensors, dtype: Dtype) -> tuple[PlannedTensor, ...]:
    """Give every tensor with its stored type, by name: floats in `dtype`, everything else as it was."""
    tensors = []
    for entry in sorted(merged.entries, key=lambda entry: entry.name):
        stored = merged.dtype(entry.name)
        kind = _DTYPES[dtype] if stored.is_floating_point else stored
        rows, columns = matrix_shape(entry.shape)
        size = rows * columns * kind.itemsize
        tensors.append(PlannedTensor(name=entry.name, shape=entry.shape, dtype=kind, size_bytes=size))
    return tuple(tensors)


def write_checkpoint_weights(
    merged: MergedTensors,
    dtype: Dtype,
    output: Path,
    *,
    advance: Callable[[int, str], None],
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> tuple[Path, ...]:
    """Write the merged weights.

    Args:
        merged: The tensors.
        dtype: How floats are stored; float32 is rounded to nearest even, as torch does.
        output: A folder that exists.
        advance: Called with the number of bytes just written and the tensor they belong to.
        max_shard_bytes: Most tensor bytes in one file.

    Returns:
        The files: `model.safetensors`, or numbered shards and their index.

    Raises:
        InputInvalid: A value is not finite, or is not in `dtype`; the tensor is named.
        NoSpace: The disk is full.
    """
    shards = _shards(planned_tensors(merged, dtype), max_shard_bytes)
    single = len(shards) == 1
    names = ["model.safetensors"] if single else [_shard_name(index, len(shards)) for index in range(len(shards))]
    paths = [output / name for name in names]
    for path, shard in zip(paths, shards, strict=True):
        _write_shard(path, merged, shard, advance)
    if not single:
        index = output / INDEX_NAME
        write_durably(index, _index_text(names, shards))
        paths.append(index)
    return tuple(paths)


def write_durably(path: Path, text: str) -> None:
    """Write a text file so that it is either absent or complete, also after a power cut."""
    partial = path.with_name(path.name + ".partial")
    with disk_errors(partial):
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)


def _write_shard(
    path: Path, merged: MergedTensors, shard: list[PlannedTensor], advance: Callable[[int, str], None]
) -> None:
    partial = path.with_name(path.name + ".partial")
    try:
        with disk_errors(partial), partial.open("wb") as file:
            file.write(_shard_header(shard))
            for tensor in shard:
                for block in _blocks(merged, tensor):
                    file.write(block)
                    advance(len(block), tensor.name)
            file.flush()
            os.fsync(file.fileno())
        with disk_errors(partial):
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _blocks(merged: MergedTensors, tensor: PlannedTensor) -> Iterator[memoryview]:
    rows, columns = matrix_shape(tensor.shape)
    for first, end in row_blocks(rows, columns):
        block = merged.rows(tensor.name, first, end).to(tensor.dtype)
        if not is_finite(block):
            hint = "Write it as float32 or bfloat16: --dtype bfloat16."
            raise InputInvalid(f"tensor {tensor.name} has a value that {_NAMES[tensor.dtype]} does not hold", hint=hint)
        yield byte_view(block.contiguous())


def _shards(tensors: tuple[PlannedTensor, ...], limit: int) -> list[list[PlannedTensor]]:
    shards: list[list[PlannedTensor]] = [[]]
    used = 0
    for tensor in tensors:
        if shards[-1] and used + tensor.size_bytes > limit:
            shards.append([])
            used = 0
        shards[-1].append(tensor)
        used += tensor.size_bytes
    return shards


def _shard_name(index: int, count: int) -> str:
    return f"model-{index + 1:05d}-of-{count:05d}.safetensors"


def _shard_header(shard: list[PlannedTensor]) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in shard:
        offsets = [offset, offset + tensor.size_bytes]
        header[tensor.name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        offset += tensor.size_bytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _index_text(names: list[str], shards: list[list[PlannedTensor]]) -> str:
    total = sum(tensor.size_bytes for shard in shards for tensor in shard)
    placed = sorted((tensor.name, name) for name, shard in zip(names, shards, strict=True) for tensor in shard)
    return json.dumps({"metadata": {"total_size": total}, "weight_map": dict(placed)}, indent=2) + "\n"
