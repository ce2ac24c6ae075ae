"""GGUF headers: a bounded reader that trusts nothing, and a writer whose bytes depend on its input alone.

Unlike gguf-py's reader, this one refuses lengths that reach past the file, counts that could not fit in it, tensors that
overlap, duplicate names and unknown types before it allocates for them; memory is bounded by the header itself. The law:
`read_gguf(path).metadata` and `.tensors`, given to `header_bytes`, give the bytes before `data_offset` again.

Source:
    https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (version 3, little-endian); the checks follow
    llama.cpp `ggml/src/gguf.cpp` `gguf_init_from_reader`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import BinaryIO

from packager.errors import InputInvalid

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT = 32
MAX_HEADER_BYTES = 1 << 28
_MAX_ITEMS = 1 << 24
_MAX_NAME_BYTES = 63
_MAX_DIMENSIONS = 4


class ValueType(IntEnum):
    """The type of a metadata value, by its number in the file."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


class GgmlType(IntEnum):
    """The element type of a tensor, by its number in the file; `GGML_TYPE_SIZES` has its block."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q2_K = 10
    Q3_K = 11
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    IQ2_XXS = 16
    IQ2_XS = 17
    IQ3_XXS = 18
    IQ1_S = 19
    IQ4_NL = 20
    IQ3_S = 21
    IQ2_S = 22
    IQ4_XS = 23
    I8 = 24
    I16 = 25
    I32 = 26
    I64 = 27
    F64 = 28
    IQ1_M = 29
    BF16 = 30
    TQ1_0 = 34
    TQ2_0 = 35
    MXFP4 = 39
    NVFP4 = 40
    Q1_0 = 41
    Q2_0 = 42


# (elements, bytes) of one block; llama.cpp ggml/src/ggml-common.h
GGML_TYPE_SIZES: dict[GgmlType, tuple[int, int]] = {
    GgmlType.F32: (1, 4),
    GgmlType.F16: (1, 2),
    GgmlType.Q4_0: (32, 18),
    GgmlType.Q4_1: (32, 20),
    GgmlType.Q5_0: (32, 22),
    GgmlType.Q5_1: (32, 24),
    GgmlType.Q8_0: (32, 34),
    GgmlType.Q2_K: (256, 84),
    GgmlType.Q3_K: (256, 110),
    GgmlType.Q4_K: (256, 144),
    GgmlType.Q5_K: (256, 176),
    GgmlType.Q6_K: (256, 210),
    GgmlType.IQ2_XXS: (256, 66),
    GgmlType.IQ2_XS: (256, 74),
    GgmlType.IQ3_XXS: (256, 98),
    GgmlType.IQ1_S: (256, 50),
    GgmlType.IQ4_NL: (32, 18),
    GgmlType.IQ3_S: (256, 110),
    GgmlType.IQ2_S: (256, 82),
    GgmlType.IQ4_XS: (256, 136),
    GgmlType.I8: (1, 1),
    GgmlType.I16: (1, 2),
    GgmlType.I32: (1, 4),
    GgmlType.I64: (1, 8),
    GgmlType.F64: (1, 8),
    GgmlType.IQ1_M: (256, 56),
    GgmlType.BF16: (1, 2),
    GgmlType.TQ1_0: (256, 54),
    GgmlType.TQ2_0: (256, 66),
    GgmlType.MXFP4: (32, 17),
    GgmlType.NVFP4: (64, 36),
    GgmlType.Q1_0: (128, 18),
    GgmlType.Q2_0: (64, 18),
}

_SCALARS = {
    ValueType.UINT8: "B",
    ValueType.INT8: "b",
    ValueType.UINT16: "H",
    ValueType.INT16: "h",
    ValueType.UINT32: "I",
    ValueType.INT32: "i",
    ValueType.FLOAT32: "f",
    ValueType.BOOL: "?",
    ValueType.UINT64: "Q",
    ValueType.INT64: "q",
    ValueType.FLOAT64: "d",
}

Scalar = str | int | float | bool


@dataclass(frozen=True, kw_only=True)
class GgufArray:
    """A metadata array: its items when `packed` is unpacked by `items`; kept as the file's own bytes until then."""

    item_type: ValueType
    count: int
    packed: bytes

    def items(self) -> tuple[Scalar, ...]:
        """Unpack the items; text that is not UTF-8 keeps its bytes as surrogate escapes."""
        if self.item_type is not ValueType.STRING:
            return struct.unpack(f"<{self.count}{_SCALARS[self.item_type]}", self.packed)
        found, at = [], 0
        for _ in range(self.count):
            (length,) = struct.unpack_from("<Q", self.packed, at)
            found.append(self.packed[at + 8 : at + 8 + length].decode("utf-8", "surrogateescape"))
            at += 8 + length
        return tuple(found)

    @staticmethod
    def of(item_type: ValueType, items: Sequence[Scalar]) -> GgufArray:
        """Pack items; `GgufArray.of(t, x).items() == tuple(x)` for every value the type can hold exactly."""
        if item_type is ValueType.STRING:
            packed = b"".join(_packed_text(str(item)) for item in items)
        else:
            packed = struct.pack(f"<{len(items)}{_SCALARS[item_type]}", *items)
        return GgufArray(item_type=item_type, count=len(items), packed=packed)


@dataclass(frozen=True, kw_only=True)
class MetadataEntry:
    """One key of the header with its typed value; a `GgufArray` for `ValueType.ARRAY`."""

    key: str
    type: ValueType
    value: Scalar | GgufArray


@dataclass(frozen=True, kw_only=True)
class GgufTensor:
    """One tensor: `shape` rows first (the reverse of the file's), `offset` from the start of the file."""

    name: str
    shape: tuple[int, ...]
    type: GgmlType
    offset: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class GgufHeader:
    """What stands before a GGUF file's tensor data, in the file's order."""

    version: int
    alignment: int
    metadata: tuple[MetadataEntry, ...]
    tensors: tuple[GgufTensor, ...]
    data_offset: int

    def value(self, key: str) -> Scalar | GgufArray | None:
        """Give the value of a key, None where the header does not have it."""
        return next((entry.value for entry in self.metadata if entry.key == key), None)


def tensor_bytes(shape: tuple[int, ...], kind: GgmlType) -> int:
    """Give the size of a tensor's data; its last dimension must be a whole number of blocks."""
    block, size = GGML_TYPE_SIZES[kind]
    return math.prod(shape) // block * size


def padded(size: int, alignment: int = ALIGNMENT) -> int:
    """Round a size up to the alignment."""
    return (size + alignment - 1) // alignment * alignment


def header_bytes(metadata: Iterable[MetadataEntry], tensors: Iterable[tuple[str, tuple[int, ...], GgmlType]]) -> bytes:
    """Give the header that puts these tensors one after the other, padded to where the first one's data starts.

    Args:
        metadata: Keys in the order they are written.
        tensors: Name, shape (rows first) and type of each tensor, in the order of their data.

    Returns:
        Bytes whose length is a multiple of 32; the data of tensor k starts after the padded data of tensor k - 1.
    """
    entries, listed = tuple(metadata), tuple(tensors)
    parts = [MAGIC, struct.pack("<IQQ", VERSION, len(listed), len(entries))]
    for entry in entries:
        parts += [_packed_text(entry.key), struct.pack("<I", entry.type), _packed_value(entry)]
    offset = 0
    for name, shape, kind in listed:
        dimensions = tuple(reversed(shape))
        parts.append(_packed_text(name))
        parts.append(struct.pack(f"<I{len(shape)}QIQ", len(shape), *dimensions, kind, offset))
        offset += padded(tensor_bytes(shape, kind))
    header = b"".join(parts)
    return header + bytes(padded(len(header)) - len(header))


def read_gguf(path: Path) -> GgufHeader:
    """Read and check the header of a GGUF file; the tensor data is not read.

    Raises:
        InputInvalid: The file is missing, not GGUF, truncated, or its header contradicts itself; the message says where.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            return _HeaderReader(path, file, size).read()
    except OSError as error:
        raise InputInvalid(f"{path}: {error.strerror}") from error


class _HeaderReader:
    """Reads forward only, and never more than what is left of the file or of the header's limit."""

    def __init__(self, path: Path, file: BinaryIO, file_bytes: int) -> None:
        self._path, self._file = path, file
        self._file_bytes = file_bytes
        self._left = min(file_bytes, MAX_HEADER_BYTES)
        self._used = 0

    def read(self) -> GgufHeader:
        if self._take(4) != MAGIC:
            raise self._bad("not a GGUF file")
        version, tensor_count, entry_count = struct.unpack("<IQQ", self._take(20))
        if version not in (2, VERSION):
            raise self._bad(f"GGUF version {version}; versions 2 and 3 are read")
        self._check_count("tensors", tensor_count, 24)
        self._check_count("metadata keys", entry_count, 13)
        metadata = self._metadata(entry_count)
        alignment = next((e.value for e in metadata if e.key == "general.alignment"), ALIGNMENT)
        if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
            raise self._bad(f"general.alignment is {alignment}, not a power of two")
        infos = [self._tensor_info() for _ in range(tensor_count)]
        data_offset = padded(self._used, alignment)
        tensors = self._placed(infos, data_offset, alignment)
        return GgufHeader(
            version=version, alignment=alignment, metadata=metadata, tensors=tensors, data_offset=data_offset
        )

    def _metadata(self, count: int) -> tuple[MetadataEntry, ...]:
        entries: dict[str, MetadataEntry] = {}
        for _ in range(count):
            key = self._text()
            if key in entries:
                raise self._bad(f"metadata key {key!r} appears twice")
            entries[key] = self._entry(key)
        return tuple(entries.values())

    def _entry(self, key: str) -> MetadataEntry:
        kind = self._value_type(key)
        value: Scalar | GgufArray
        if kind is ValueType.ARRAY:
            value = self._array(key)
        elif kind is ValueType.STRING:
            value = self._text()
        else:
            value = self._scalar(kind, key)
        return MetadataEntry(key=key, type=kind, value=value)

    def _scalar(self, kind: ValueType, key: str) -> Scalar:
        raw = self._take(struct.calcsize(f"<{_SCALARS[kind]}"))
        if kind is ValueType.BOOL and raw not in (b"\0", b"\1"):
            raise self._bad(f"{key} is a boolean of value {raw[0]}")
        value: Scalar = struct.unpack(f"<{_SCALARS[kind]}", raw)[0]
        return value

    def _array(self, key: str) -> GgufArray:
        kind = self._value_type(key)
        if kind is ValueType.ARRAY:
            raise self._bad(f"{key} is an array of arrays")
        (count,) = struct.unpack("<Q", self._take(8))
        width = 8 if kind is ValueType.STRING else struct.calcsize(f"<{_SCALARS[kind]}")
        self._check_count(f"items of {key}", count, width)
        if kind is not ValueType.STRING:
            packed = self._take(count * width)
            if kind is ValueType.BOOL and packed.strip(b"\0\1"):
                raise self._bad(f"{key} holds a boolean that is neither 0 nor 1")
            return GgufArray(item_type=kind, count=count, packed=packed)
        parts = []
        for _ in range(count):
            prefix = self._take(8)
            parts += [prefix, self._take(int.from_bytes(prefix, "little"))]
        return GgufArray(item_type=kind, count=count, packed=b"".join(parts))

    def _tensor_info(self) -> tuple[str, tuple[int, ...], GgmlType, int]:
        name = self._text()
        if not name or len(name.encode("utf-8", "surrogateescape")) > _MAX_NAME_BYTES:
            raise self._bad(f"tensor name {name[:80]!r} is empty or longer than {_MAX_NAME_BYTES} bytes")
        (dimensions,) = struct.unpack("<I", self._take(4))
        if dimensions > _MAX_DIMENSIONS:
            raise self._bad(f"tensor {name} has {dimensions} dimensions")
        shape = tuple(reversed(struct.unpack(f"<{dimensions}Q", self._take(8 * dimensions))))
        number, offset = struct.unpack("<IQ", self._take(12))
        try:
            kind = GgmlType(number)
        except ValueError:
            raise self._bad(f"tensor {name} has type {number}, which is not known here") from None
        block, _ = GGML_TYPE_SIZES[kind]
        if 0 in shape or (shape[-1] if shape else 1) % block:
            raise self._bad(f"tensor {name} of shape {shape} is not a whole number of {kind.name} blocks")
        return name, shape, kind, offset

    def _placed(
        self, infos: Sequence[tuple[str, tuple[int, ...], GgmlType, int]], start: int, alignment: int
    ) -> tuple[GgufTensor, ...]:
        tensors, expected = [], 0
        names: set[str] = set()
        for name, shape, kind, offset in infos:
            size = tensor_bytes(shape, kind)
            if name in names:
                raise self._bad(f"tensor {name} appears twice")
            if offset != expected:
                raise self._bad(f"tensor {name} is at {offset}, not at {expected} where the one before it ends")
            if start + offset + size > self._file_bytes:
                raise self._bad(f"ends inside tensor {name}: {self._file_bytes} bytes of {start + offset + size}")
            names.add(name)
            tensors.append(GgufTensor(name=name, shape=shape, type=kind, offset=start + offset, size_bytes=size))
            expected += padded(size, alignment)
        return tuple(tensors)

    def _text(self) -> str:
        (length,) = struct.unpack("<Q", self._take(8))
        return self._take(length).decode("utf-8", "surrogateescape")

    def _value_type(self, key: str) -> ValueType:
        (number,) = struct.unpack("<I", self._take(4))
        try:
            return ValueType(number)
        except ValueError:
            raise self._bad(f"{key} has value type {number}, which does not exist") from None

    def _check_count(self, what: str, count: int, least_bytes: int) -> None:
        if count > _MAX_ITEMS or count * least_bytes > self._left:
            raise self._bad(f"claims {count} {what} with {self._left} bytes left of its header")

    def _take(self, count: int) -> bytes:
        if count > self._left:
            raise self._bad(f"claims {count} bytes at {self._used}, with {self._left} left of its header")
        raw = self._file.read(count)
        if len(raw) != count:
            raise self._bad(f"ends at byte {self._used + len(raw)}")
        self._left -= count
        self._used += count
        return raw

    def _bad(self, what: str) -> InputInvalid:
        return InputInvalid(f"{self._path}: {what}", hint="Build the file again, or download it again.")


def _packed_text(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(raw)) + raw


def _packed_value(entry: MetadataEntry) -> bytes:
    match entry.value:
        case GgufArray() as array:
            return struct.pack("<IQ", array.item_type, array.count) + array.packed
        case str() as text:
            return _packed_text(text)
        case number:
            return struct.pack(f"<{_SCALARS[entry.type]}", number)
