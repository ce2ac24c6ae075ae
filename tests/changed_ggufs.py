"""GGUF files with a fault in them: one metadata value, one tensor's values, some of its bytes."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from packager.artifacts import Gguf
from packager.formats.gguf import GgufArray, GgufTensor, Scalar, header_bytes, read_gguf


def described(source: Gguf, path: Path) -> Gguf:
    """What a build would have recorded of a changed file."""
    data = path.read_bytes()
    return replace(source, path=path, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def with_metadata(source: Path, changes: Mapping[str, Scalar | GgufArray | None], target: Path) -> Path:
    """Write a file again with other metadata values; None takes a key out."""
    header = read_gguf(source)
    assert set(changes) <= {entry.key for entry in header.metadata}
    metadata = []
    for entry in header.metadata:
        value = changes.get(entry.key, entry.value)
        metadata += [] if value is None else [replace(entry, value=value)]
    text = header_bytes(metadata, [(tensor.name, tensor.shape, tensor.type) for tensor in header.tensors])
    target.write_bytes(text + source.read_bytes()[header.data_offset :])
    return target


def without_tensor(source: Path, name: str, target: Path) -> Path:
    """Write a file again that lacks its last tensor, which must have this name."""
    header = read_gguf(source)
    assert header.tensors[-1].name == name
    kept = header.tensors[:-1]
    text = header_bytes(header.metadata, [(tensor.name, tensor.shape, tensor.type) for tensor in kept])
    target.write_bytes(text + source.read_bytes()[header.data_offset : header.tensors[-1].offset])
    return target


def tensor_of(path: Path, name: str) -> GgufTensor:
    return next(tensor for tensor in read_gguf(path).tensors if tensor.name == name)


def values(path: Path, name: str) -> NDArray[np.float32]:
    """A tensor's values by gguf-py, rows first."""
    tensor = tensor_of(path, name)
    data = np.fromfile(path, np.uint8, tensor.size_bytes, offset=tensor.offset)
    kind = gguf.GGMLQuantizationType(int(tensor.type))
    return gguf.quants.dequantize(data.reshape(*tensor.shape[:-1], -1), kind).reshape(tensor.shape)


def with_values(source: Path, name: str, data: NDArray[np.float32], target: Path) -> Path:
    """Copy a file and give one tensor other values, in its own type by gguf-py."""
    tensor = tensor_of(source, name)
    packed = gguf.quants.quantize(data, gguf.GGMLQuantizationType(int(tensor.type))).tobytes()
    assert len(packed) == tensor.size_bytes
    return with_bytes(source, tensor.offset, packed, target)


def with_bytes(source: Path, offset: int, data: bytes, target: Path) -> Path:
    """Copy a file and write some bytes into it."""
    if source != target:
        shutil.copy(source, target)
    with target.open("r+b") as file:
        file.seek(offset)
        file.write(data)
    return target
