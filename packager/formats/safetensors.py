"""What a safetensors file holds, from a bounded reader that never maps or reads the weights.

Unlike the safetensors library, every fault is found before anything is allocated for it, and is told in one line with
both values. The checks are the format's own rules, so that a file accepted here is one the library accepts.

Source:
    https://github.com/huggingface/safetensors#format and safetensors 0.8 `Metadata::validate`.
"""

from __future__ import annotations

import math
import stat
from pathlib import Path

from packager.artifacts import TensorEntry
from packager.errors import InputInvalid
from packager.formats.json_file import parse_object

# About 100000 tensors. The format allows 100 MB, which no real file comes near and which takes seconds to parse.
HEADER_LIMIT_BYTES = 16 << 20
NAME_LIMIT = 1024
DIMENSIONS_LIMIT = 16
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
_REPAIR = "Copy or download the file again; it is damaged or incomplete."


def read_header(path: Path) -> tuple[TensorEntry, ...]:
    """Give every tensor of a safetensors file, sorted by offset.

    The tensors fill the file from the end of the header to its last byte without gap or overlap; their sizes fit dtype
    and shape.

    Raises:
        InputInvalid: The file is missing, unreadable or breaks a rule of the format; the message names both values.
    """
    text, data_start, file_bytes = _read_json_text(path)
    members = parse_object(text, path=path, unique_keys=True)
    _check_metadata(path, members.pop("__metadata__", None))
    entries = [_entry(path, name, member, data_start) for name, member in members.items()]
    entries.sort(key=lambda entry: (entry.offset, entry.size_bytes))
    _check_layout(path, entries, data_start, file_bytes)
    return tuple(entries)


def _read_json_text(path: Path) -> tuple[str, int, int]:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputInvalid(f"{path}: not a regular file", hint="Check the path.")
        with path.open("rb") as file:
            prefix = file.read(8)
            length = int.from_bytes(prefix, "little")
            _check_length(path, prefix, length, status.st_size)
            data = file.read(length)
    except FileNotFoundError:
        raise InputInvalid(f"{path}: no such file", hint="Check the path, or download the file.") from None
    except OSError as error:
        raise InputInvalid(f"{path}: cannot be read ({error.strerror})", hint="Check its permissions.") from None
    if not data.startswith(b"{"):
        raise InputInvalid(f"{path}: not a safetensors file (its header does not start with '{{')", hint=_REPAIR)
    try:
        return data.decode("utf-8"), 8 + length, status.st_size
    except UnicodeDecodeError as error:
        raise InputInvalid(f"{path}: the header is not UTF-8 (byte {error.start})", hint=_REPAIR) from None


def _check_length(path: Path, prefix: bytes, length: int, file_bytes: int) -> None:
    if len(prefix) < 8:
        raise InputInvalid(f"{path}: {file_bytes} bytes, a safetensors file has at least 10", hint=_REPAIR)
    if prefix.startswith(b"GGUF"):
        raise InputInvalid(
            f"{path}: a GGUF file, not a safetensors file", hint="Pass the Hugging Face folder it came from."
        )
    if prefix.startswith(b"version "):
        raise InputInvalid(f"{path}: a git-lfs pointer, not the weights themselves", hint="Run: git lfs pull")
    if length > file_bytes - 8:
        raise InputInvalid(
            f"{path}: the header alone promises {8 + length} bytes, the file has {file_bytes}", hint=_REPAIR
        )
    if length > HEADER_LIMIT_BYTES:
        raise InputInvalid(
            f"{path}: the header has {length} bytes, at most {HEADER_LIMIT_BYTES} are read", hint=_REPAIR
        )


def _check_metadata(path: Path, metadata: object) -> None:
    if metadata is None:
        return
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise InputInvalid(f"{path}: __metadata__ is not an object of strings", hint=_REPAIR)


def _entry(path: Path, name: str, member: object, data_start: int) -> TensorEntry:
    if not name or len(name) > NAME_LIMIT or not name.isprintable():
        raise InputInvalid(
            f"{path}: {name[:80]!r} is no tensor name (1 to {NAME_LIMIT} printable characters)", hint=_REPAIR
        )
    if not isinstance(member, dict) or set(member) != {"dtype", "shape", "data_offsets"}:
        raise InputInvalid(f"{path}: tensor {name!r} does not have exactly dtype, shape and data_offsets", hint=_REPAIR)
    dtype, shape, offsets = member["dtype"], member["shape"], member["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise InputInvalid(
            f"{path}: tensor {name!r} has the unknown dtype {str(dtype)[:40]!r}",
            hint="Save the weights as float32, float16 or bfloat16.",
        )
    if not _counts(shape) or len(shape) > DIMENSIONS_LIMIT:
        raise InputInvalid(
            f"{path}: tensor {name!r} has the shape {str(shape)[:60]}, expected a list of sizes", hint=_REPAIR
        )
    if not _counts(offsets) or len(offsets) != 2:
        raise InputInvalid(
            f"{path}: tensor {name!r} has the offsets {str(offsets)[:60]}, expected [start, end]", hint=_REPAIR
        )
    start, end = offsets
    bits = math.prod(shape) * BITS[dtype]
    if bits % 8 or bits // 8 != end - start:
        raise InputInvalid(
            f"{path}: tensor {name!r} takes {bits / 8:.10g} bytes as {dtype} {shape}, its offsets give {end - start}",
            hint=_REPAIR,
        )
    return TensorEntry(
        name=name, dtype=dtype, shape=tuple(shape), file=path, offset=data_start + start, size_bytes=end - start
    )


def _counts(value: object) -> bool:
    # bool is an int in Python, but `true` is no size
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 63 for item in value)


def _check_layout(path: Path, entries: list[TensorEntry], data_start: int, file_bytes: int) -> None:
    expected, previous = data_start, "the header"
    for entry in entries:
        if entry.offset != expected:
            kind = "overlaps" if entry.offset < expected else "leaves a gap after"
            raise InputInvalid(
                f"{path}: tensor {entry.name!r} {kind} {previous} (starts at {entry.offset}, expected {expected})",
                hint=_REPAIR,
            )
        expected, previous = entry.offset + entry.size_bytes, repr(entry.name)
    if expected != file_bytes:
        raise InputInvalid(f"{path}: the header promises {expected} bytes, the file has {file_bytes}", hint=_REPAIR)
