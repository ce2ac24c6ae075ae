"""Whether two stored tensors hold the same values, read a few megabytes at a time."""

from __future__ import annotations

from typing import BinaryIO

from packager.artifacts import TensorEntry
from packager.errors import InputInvalid

_CHUNK_BYTES = 4 << 20


def same_values(copy: TensorEntry, original: TensorEntry) -> bool:
    """Compare two tensors of one shape bit for bit; a 16-bit original may have a float32 copy of the same values.

    Raises:
        InputInvalid: A file cannot be read.
    """
    if copy.shape != original.shape:
        return False
    widened = copy.dtype == "F32" and original.dtype in ("BF16", "F16")
    if copy.dtype != original.dtype and not widened:
        return False
    try:
        with copy.file.open("rb") as copy_file, original.file.open("rb") as original_file:
            copy_file.seek(copy.offset)
            original_file.seek(original.offset)
            return all(
                _same_chunk(
                    copy_file, original_file, min(_CHUNK_BYTES, original.size_bytes - start), original.dtype, widened
                )
                for start in range(0, original.size_bytes, _CHUNK_BYTES)
            )
    except OSError as error:
        raise InputInvalid(
            f"{error.filename or copy.file}: cannot be read ({error.strerror})", hint="Check its permissions."
        ) from None


def is_transpose(matrix: TensorEntry, other: TensorEntry) -> bool:
    """Whether a small matrix holds the values of another one with rows and columns exchanged, bit for bit.

    Raises:
        InputInvalid: A file cannot be read.
    """
    import numpy

    if matrix.dtype != other.dtype or matrix.shape != other.shape[::-1]:
        return False
    kind = {"F32": numpy.uint32, "F16": numpy.uint16, "BF16": numpy.uint16}.get(matrix.dtype)
    if kind is None:
        return False
    mine, theirs = (numpy.frombuffer(_bytes(entry), dtype=kind).reshape(entry.shape) for entry in (matrix, other))
    return numpy.array_equal(mine, theirs.T)


def _bytes(entry: TensorEntry) -> bytes:
    try:
        with entry.file.open("rb") as file:
            file.seek(entry.offset)
            return file.read(entry.size_bytes)
    except OSError as error:
        raise InputInvalid(f"{entry.file}: cannot be read ({error.strerror})", hint="Check its permissions.") from None


def _same_chunk(copy: BinaryIO, original: BinaryIO, size: int, dtype: str, widened: bool) -> bool:
    theirs = original.read(size)
    if not widened:
        return copy.read(size) == theirs
    mine = copy.read(size * 2)
    if dtype == "F16":
        import numpy

        return numpy.frombuffer(theirs, dtype="<f2").astype("<f4").tobytes() == mine
    expected = bytearray(size * 2)  # a float32 of the same value is two zero bytes, then the bfloat16
    expected[2::4], expected[3::4] = theirs[0::2], theirs[1::2]
    return bytes(expected) == mine
