"""The merged checkpoint as safetensors files, written block by block: header first, then each tensor in its place.

Unlike `save_pretrained`, no tensor is held whole, and the same input gives the same bytes. Tensors stand in the order of their
names; a file holds at most 5 GB of them, unless one alone is larger.

Source:
    https://github.com/huggingface/safetensors#format; shard names and index as `transformers` writes them.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from packager.artifacts import Dtype
from packager.errors import InputInvalid
from packager.weights.gguf_output import disk_errors
from packager.weights.merged import MergedTensors, byte_view, is_finite, matrix_shape, row_blocks
from packager.weights.sizes import INDEX_NAME, MAX_SHARD_BYTES

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
    with CheckpointOutput(merged, dtype, output, advance=advance, max_shard_bytes=max_shard_bytes) as files:
        return files.finish()


class CheckpointOutput:
    """The files being written while somebody else reads the merged tensors: every block that is read goes into its place.

    Which block comes when does not matter, nor whether one comes twice. What nobody read by `finish` is read then. Use it in a
    `with` statement: without `finish` nothing is left, nor of what had the files' names before.

    Args:
        merged: The tensors; this becomes its observer.
        dtype: How floats are stored.
        output: A folder that exists.
        advance: Called with the number of bytes just written and the tensor they belong to.
        max_shard_bytes: Most tensor bytes in one file.
    """

    def __init__(
        self,
        merged: MergedTensors,
        dtype: Dtype,
        output: Path,
        *,
        advance: Callable[[int, str], None] = lambda size, name: None,
        max_shard_bytes: int = MAX_SHARD_BYTES,
    ) -> None:
        self._merged, self._output, self._advance = merged, output, advance
        self._shards = _shards(planned_tensors(merged, dtype), max_shard_bytes)
        count = len(self._shards)
        self._names = ["model.safetensors"] if count == 1 else [_shard_name(index, count) for index in range(count)]
        self._files: list[int] = []
        self._places: dict[str, _Place] = {}
        self._written: set[tuple[str, int]] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> CheckpointOutput:
        for name, shard in zip(self._names, self._shards, strict=True):
            partial = self._partial(name)
            header = _shard_header(shard)
            with disk_errors(partial):
                (self._output / name).unlink(
                    missing_ok=True
                )  # of a run killed behind `finish`: it would take its room twice
                file = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
                self._files.append(file)
                os.pwrite(file, header, 0)
            offset = len(header)
            for tensor in shard:
                self._places[tensor.name] = _Place(tensor=tensor, file=file, path=partial, offset=offset)
                offset += tensor.size_bytes
        self._merged.observer = self.take
        return self

    def __exit__(self, *_: object) -> None:
        self._merged.observer = None
        for file in self._files:
            os.close(file)
        for name in self._names:
            self._partial(name).unlink(missing_ok=True)

    def take(self, name: str, first: int, block: torch.Tensor) -> None:
        """Write one block of rows; from any number of threads.

        Raises:
            InputInvalid: A value does not fit the type; the tensor is named.
            NoSpace: The disk is full.
        """
        place = self._places[name]
        stored = block.to(place.tensor.dtype)
        if not is_finite(stored):
            kind = _NAMES[place.tensor.dtype]
            hint = "Write it as float32 or bfloat16: --dtype bfloat16."
            raise InputInvalid(f"tensor {name} has a value that {kind} does not hold", hint=hint)
        view = byte_view(stored.contiguous())
        size, at = len(view), place.offset + first * matrix_shape(place.tensor.shape)[1] * place.tensor.dtype.itemsize
        with disk_errors(place.path):
            while view:
                count = os.pwrite(place.file, view, at)
                view, at = view[count:], at + count
        with self._lock:
            if (name, first) not in self._written:
                self._written.add((name, first))
                self._advance(size, name)

    def finish(self) -> tuple[Path, ...]:
        """Read what is missing, and give the files their names once they are complete and on disk."""
        for place in self._places.values():
            for first, end in row_blocks(*matrix_shape(place.tensor.shape)):
                if (place.tensor.name, first) not in self._written:
                    self._merged.rows(place.tensor.name, first, end)
                if (place.tensor.name, first) not in self._written:  # there are zeros in its place
                    raise RuntimeError(f"rows {first} to {end} of {place.tensor.name} were read and not shown")
        paths = [self._output / name for name in self._names]
        for file, path in zip(self._files, paths, strict=True):
            with disk_errors(path):
                os.fsync(file)
                self._partial(path.name).replace(path)
        if len(paths) > 1:
            index = self._output / INDEX_NAME
            write_durably(index, _index_text(self._names, self._shards))
            paths.append(index)
        return tuple(paths)

    def _partial(self, name: str) -> Path:
        return self._output / f"{name}.partial"


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a tensor's bytes go."""

    tensor: PlannedTensor
    file: int
    path: Path
    offset: int


def write_durably(path: Path, text: str) -> None:
    """Write a text file so that it is either absent or complete, also after a power cut."""
    partial = path.with_name(path.name + ".partial")
    with disk_errors(partial):
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)


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
