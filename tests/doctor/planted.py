"""Models made by today's usual way, a converted GGUF and a few lines of a Modelfile, with one fault in each."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx

from packager.formats.gguf import GgufArray, MetadataEntry, Scalar, ValueType, header_bytes, read_gguf
from tests.llama_cpp_tools import sha256

Change = Callable[[MetadataEntry], MetadataEntry | None]
# llama.h, enum llama_ftype
Q4_0, Q8_0, Q2_K = 2, 7, 10


def create(url: str, name: str, gguf: Path, **fields: object) -> str:
    """Make a model of a file as `ollama create` does, over its API; gives its name."""
    digest = f"sha256:{sha256(gguf)}"
    with httpx.Client(base_url=url, timeout=120, trust_env=False) as client:
        with gguf.open("rb") as file:
            client.post(f"/api/blobs/{digest}", content=file).raise_for_status()
        body = {"model": name, "files": {gguf.name: digest}, **fields}
        with client.stream("POST", "/api/create", json=body) as reply:
            said = [json.loads(line) for line in reply.iter_lines()]
    assert said[-1] == {"status": "success"}, said[-1]
    return name


def delete(url: str, name: str) -> None:
    httpx.request("DELETE", f"{url}/api/delete", json={"model": name}, trust_env=False).raise_for_status()


def blob_of(url: str, name: str) -> Path:
    """Give the file in the server's store that holds a model's weights."""
    reply = httpx.post(f"{url}/api/show", json={"model": name}, trust_env=False).json()
    line = next(line for line in reply["modelfile"].splitlines() if line.startswith("FROM /"))
    return Path(line.removeprefix("FROM "))


def edited(source: Path, target: Path, changes: Mapping[str, Scalar | GgufArray | None]) -> Path:
    """Copy a GGUF file with other values of some metadata keys; None removes a key, a new one is added."""
    header = read_gguf(source)
    kept = []
    left = dict(changes)
    for entry in header.metadata:
        if entry.key not in left:
            kept.append(entry)
        elif (value := left.pop(entry.key)) is not None:
            kept.append(MetadataEntry(key=entry.key, type=entry.type, value=value))
    kept += [MetadataEntry(key=key, type=_type(value), value=value) for key, value in left.items() if value is not None]
    tensors = [(tensor.name, tensor.shape, tensor.type) for tensor in header.tensors]
    with source.open("rb") as data:
        data.seek(header.data_offset)
        target.write_bytes(header_bytes(kept, tensors) + data.read())
    return target


def with_items(source: Path, key: str, change: Callable[[list[Scalar]], list[Scalar]]) -> GgufArray:
    """Give an array of a GGUF's metadata with other items."""
    found = read_gguf(source).value(key)
    assert isinstance(found, GgufArray)
    return GgufArray.of(found.item_type, change(list(found.items())))


def quantized(source: Path, target: Path, file_type: int) -> Path:
    """Run llama_model_quantize, from quants too, as people do who have no other file."""
    import llama_cpp

    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype, parameters.allow_requantize = file_type, True
    assert llama_cpp.llama_model_quantize(bytes(source), bytes(target), ctypes.byref(parameters)) == 0
    return target


def flip_bytes(path: Path, tensor: str) -> None:
    """Change sixteen bytes in the middle of a tensor, as a failing disk does."""
    found = next(each for each in read_gguf(path).tensors if each.name == tensor)
    with path.open("r+b") as file:
        file.seek(found.offset + found.size_bytes // 2)
        old = file.read(16)
        file.seek(found.offset + found.size_bytes // 2)
        file.write(bytes(byte ^ 0x55 for byte in old))


def _type(value: Scalar | GgufArray) -> ValueType:
    kinds = {bool: ValueType.BOOL, int: ValueType.UINT32, float: ValueType.FLOAT32, str: ValueType.STRING}
    return ValueType.ARRAY if isinstance(value, GgufArray) else kinds[type(value)]
