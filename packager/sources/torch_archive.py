"""The process that turns a file of torch.save into safetensors: one JSON request in, a file and one JSON answer out.

A pickle is a program, and torch.save writes one. So this runs as a child with limits of its own, which first gives up whatever
it does not need: from then on it can read one file and write another, and everything else ends it. The pickle is run by
`packager.sources.torch_pickle`, and the bytes of the tensors are then copied, in one pass, without torch.

Source: torch 2.15, `torch/serialization.py`; https://github.com/huggingface/safetensors#format; PEP 578 for the audit hook.
"""

from __future__ import annotations

import codecs
import json
import os
import pickle
import struct
import sys
import zipfile
from collections.abc import Iterator, Mapping
from typing import BinaryIO, NoReturn

from packager.sources.torch_pickle import Invalid, Storage, Tensor, Unsafe, run

MEMORY_BYTES = 3 << 30
PROGRAM_BYTES = 64 << 20  # a pickle of 100000 tensors has 20 MB
LOCKED_STATUS = 97
_CHUNK_BYTES = 4 << 20
_NAME_LENGTH = 1024
_BROKEN = (
    pickle.UnpicklingError, TypeError, ValueError, LookupError, AttributeError, EOFError, ArithmeticError, RecursionError,
    zipfile.BadZipFile, NotImplementedError, struct.error,
)  # fmt: skip

Json = dict[str, object]


def convert(request: Mapping[str, object], source: BinaryIO, output: BinaryIO) -> Json:
    """Write the tensors of an archive.

    Args:
        request: `strip`: what is taken from the front of names, in order; `peft`: whether the adapter's name is taken out of
            them, as peft does when it saves; `tied`: names of output layers that are left out where another tensor has the
            same bytes.
        source: The archive.
        output: An empty file.

    Returns:
        `tensors`, how many were written; `left_out`, by name; `stand_ins`, what the pickle named and did not get.
    """
    archive = _Archive(source)
    program = archive.program()
    loaded, stand_ins = run(program)
    weights = _weights(loaded, request)
    left_out = _drop_tied(weights, _texts(request, "tied"))
    archive.check(weights)
    _write(weights, archive, output)
    return {"tensors": len(weights), "left_out": left_out, "stand_ins": stand_ins}


class _Archive:
    """The records of a torch.save file; each lies uncompressed in one piece."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        if not zipfile.is_zipfile(file):
            raise Invalid("no archive of torch.save, or one of before torch 1.6")
        self._size_bytes = os.fstat(file.fileno()).st_size
        records = zipfile.ZipFile(file).infolist()
        self._records = {record.filename: record for record in records}
        if len(self._records) != len(records):
            raise Unsafe("has two records of one name")
        found = [name for name in self._records if name.endswith("/data.pkl")]
        if len(found) != 1:
            raise Invalid(f"has {len(found)} records data.pkl, a file of torch.save has one")
        self._prefix = found[0].removesuffix("data.pkl")

    def program(self) -> bytes:
        order = self._prefix + "byteorder"
        if order in self._records and self._read(order, 16) != b"little":
            raise Invalid("was written by a big-endian machine")
        return self._read(self._prefix + "data.pkl", PROGRAM_BYTES)

    def check(self, weights: Mapping[str, Tensor]) -> None:
        """Compare every tensor with the bytes that are there."""
        for name, tensor in weights.items():
            start, size = self.place(tensor.storage)
            needed = tensor.storage.elements * tensor.storage.item_bytes
            if size < needed or start + size > self._size_bytes:
                raise Invalid(f"{name} needs {needed} bytes, its record has {size}")
        total = sum(tensor.size_bytes for tensor in weights.values())
        if total > 2 * self._size_bytes + (1 << 20):
            raise Unsafe(f"{self._size_bytes} bytes ask to be written as {total}")

    def place(self, storage: Storage) -> tuple[int, int]:
        return self._place(f"{self._prefix}data/{storage.key}")

    def copy(self, start: int, size: int) -> Iterator[bytes]:
        while size > 0:
            part = os.pread(self._file.fileno(), min(size, _CHUNK_BYTES), start)
            if not part:
                raise Invalid("ends before its last tensor")
            yield part
            start, size = start + len(part), size - len(part)

    def _read(self, name: str, limit: int) -> bytes:
        start, size = self._place(name)
        if size > limit:
            raise Unsafe(f"{name} has {size} bytes, at most {limit} are read")
        return b"".join(self.copy(start, size))

    def _place(self, name: str) -> tuple[int, int]:
        record = self._records.get(name)
        if record is None:
            raise Invalid(f"has no record {name}")
        if record.compress_type != zipfile.ZIP_STORED or record.compress_size != record.file_size:
            raise Invalid(f"its record {name} is compressed, torch.save compresses none")
        local = os.pread(self._file.fileno(), 30, record.header_offset)
        if len(local) < 30 or not local.startswith(b"PK\x03\x04"):
            raise Invalid(f"its record {name} has no header")
        return record.header_offset + 30 + sum(struct.unpack("<HH", local[26:30])), record.file_size


def _weights(loaded: object, request: Mapping[str, object]) -> dict[str, Tensor]:
    """Give the state dict: the whole, or what lies under `state_dict`."""
    inner = loaded.get("state_dict") if isinstance(loaded, dict) else None
    found = inner if isinstance(inner, dict) else loaded
    if not isinstance(found, dict):
        raise Invalid("holds no state dict")
    weights: dict[str, Tensor] = {}
    for key, value in found.items():
        if not isinstance(key, str) or not 0 < len(key) <= _NAME_LENGTH or not key.isprintable():
            raise Invalid(f"has a tensor of the name {str(key)[:60]!r}")
        if not isinstance(value, Tensor):
            raise Invalid(f"holds {key}, which is no tensor")
        name = key.replace(".default.weight", ".weight") if request.get("peft") is True else key
        for prefix in _texts(request, "strip"):
            name = name.removeprefix(prefix)
        if name in weights:
            raise Invalid(f"has two tensors {name}")
        weights[name] = value
    if not weights:
        raise Invalid("holds no tensor")
    return weights


def _drop_tied(weights: dict[str, Tensor], tied: list[str]) -> list[str]:
    """Leave out an output layer that is a view of the same bytes as another tensor, as `save_pretrained` does."""
    names = [name for name in weights if name in tied and list(weights.values()).count(weights[name]) > 1]
    for name in names:
        del weights[name]
    return names


def _texts(request: Mapping[str, object], key: str) -> list[str]:
    value = request.get(key)
    return [str(each) for each in value] if isinstance(value, list) else []


def _write(weights: Mapping[str, Tensor], archive: _Archive, output: BinaryIO) -> None:
    # Wide elements first, so that every tensor lies at a multiple of its element's size.
    names = sorted(weights, key=lambda name: (-weights[name].storage.item_bytes, name))
    header: Json = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        start, end = end, end + weights[name].size_bytes
        tensor = weights[name]
        header[name] = {"dtype": tensor.storage.dtype, "shape": tensor.shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    output.write(len(text).to_bytes(8, "little") + text)
    for name in names:
        for part in _bytes_of(weights[name], archive):
            output.write(part)
    output.flush()


def _bytes_of(tensor: Tensor, archive: _Archive) -> Iterator[bytes]:
    start, _ = archive.place(tensor.storage)
    size = tensor.storage.item_bytes
    if tensor.contiguous:
        yield from archive.copy(start + tensor.offset * size, tensor.size_bytes)
        return
    whole = b"".join(archive.copy(start, tensor.storage.elements * size))
    elements = _numpy.frombuffer(whole, dtype=f"u{size}")[tensor.offset :]
    strides = tuple(step * size for step in tensor.stride)
    yield _numpy.ascontiguousarray(_numpy.lib.stride_tricks.as_strided(elements, tensor.shape, strides)).tobytes()


def answer(request: Mapping[str, object], source: BinaryIO, output: BinaryIO) -> Json:
    """Give the answer to a request: what `convert` gives, `{"invalid"}`, `{"unsafe"}`, or `{"errno", "disk"}`."""
    try:
        return convert(request, source, output)
    except Invalid as error:
        return {"invalid": str(error)}
    except Unsafe as error:
        return {"unsafe": str(error)}
    except MemoryError:
        return {"unsafe": f"needs more than {MEMORY_BYTES >> 20} MiB of memory"}
    except OSError as error:
        return {"errno": error.errno, "disk": error.strerror}
    except _BROKEN as error:
        return {"invalid": f"cannot be read ({type(error).__name__}: {str(error)[:120]})"}


def limit(source_bytes: int) -> None:
    """Cap memory, processor time and the size of what is written, where the system can."""
    try:
        import resource
    except ImportError:  # Windows has no limits
        return
    seconds = 60 + source_bytes // (20 << 20)
    wanted = {
        resource.RLIMIT_AS: MEMORY_BYTES,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: 2 * source_bytes + (64 << 20),
        resource.RLIMIT_NOFILE: 16,
        resource.RLIMIT_CORE: 0,
    }
    for which, value in wanted.items():
        try:
            resource.setrlimit(which, (value, value))
        except (ValueError, OSError):  # macOS refuses RLIMIT_AS
            continue


def lock() -> None:
    """End this process at whatever it does from now on besides computing, reading and writing the files it has open."""

    def ended(event: str, _: tuple[object, ...]) -> None:
        if event not in _ALLOWED:
            _end(event)

    codecs.lookup("cp437")  # names in a zip file may be in it, and codecs are imported when they are first used
    sys.addaudithook(ended)


_ALLOWED = ("pickle.find_class",)


def _end(event: str) -> NoReturn:
    os.write(2, f"refused: {event}\n".encode())
    os._exit(LOCKED_STATUS)


def serve() -> None:
    """Say that this process is ready, then answer one request."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    request = json.loads(sys.stdin.readline())
    with open(request["source"], "rb") as source, open(request["output"], "xb") as output:  # noqa: PTH123  # no pathlib here
        limit(os.fstat(source.fileno()).st_size)
        lock()
        text = json.dumps(answer(request, source, output))
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # each thread would take address space
    import numpy as _numpy  # before the lock: later nothing can be imported

    serve()
