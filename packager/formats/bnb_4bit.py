"""The tensors of a checkpoint that bitsandbytes quantized to 4 bits: which stored tensors make one weight, and how.

Source:
    bitsandbytes 0.48 `QuantState.as_dict(packed=True)`, as transformers saves it: beside `X.weight` (two values a byte)
    `X.weight.absmax`, `X.weight.quant_map` and `X.weight.quant_state.bitsandbytes__nf4` (JSON in bytes), and for double
    quantization `X.weight.nested_absmax` and `X.weight.nested_quant_map`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from packager.artifacts import TensorEntry
from packager.errors import InputInvalid, Unsupported
from packager.formats.json_file import JsonObject, parse_object

_STATE = re.compile(r"(?P<name>.+)\.quant_state\.bitsandbytes__(?P<kind>nf4|fp4)")
_STATE_LIMIT_BYTES = 4096
_DTYPES = ("float32", "bfloat16", "float16")
_AGAIN = "Download the model again."


@dataclass(frozen=True, kw_only=True)
class Scales:
    """What blocks of values are multiplied by: float32, or themselves quantized in blocks with an offset added."""

    values: TensorEntry
    nested_values: TensorEntry | None = None
    nested_map: TensorEntry | None = None
    nested_block: int = 0
    nested_offset: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Quantized4Bit:
    """One weight in 4 bits.

    Attributes:
        name: Its name.
        shape: The shape that it had.
        dtype: The type that it had, by torch's name.
        packed: Two values a byte, the first in the upper half; row after row.
        table: The 16 values, float32.
        block: How many values share a scale.
        scales: One scale for each block.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    packed: TensorEntry
    table: TensorEntry
    block: int
    scales: Scales


def quantized_tensors(tensors: tuple[TensorEntry, ...]) -> tuple[tuple[Quantized4Bit, ...], tuple[TensorEntry, ...]]:
    """Give the weights in 4 bits of a checkpoint, and the tensors that are stored as they are.

    Raises:
        InputInvalid: A weight lacks a part, or a part has another size than the weight needs.
        Unsupported: It had a type other than float32, bfloat16 and float16.
    """
    held = {entry.name: entry for entry in tensors}
    found = tuple(
        _quantized(match["name"], entry, held) for entry in tensors if (match := _STATE.fullmatch(entry.name))
    )
    names = tuple(weight.name for weight in found)
    plain = tuple(e for e in tensors if e.name not in names and not any(e.name.startswith(f"{n}.") for n in names))
    return found, plain


def _quantized(name: str, state: TensorEntry, held: Mapping[str, TensorEntry]) -> Quantized4Bit:
    said = _read_state(state)
    shape = said.items("shape")
    if not shape or not all(type(size) is int and size > 0 for size in shape):
        raise said.wrong("shape", "a list of sizes")
    sizes = tuple(size for size in shape if isinstance(size, int))
    dtype = said.text("dtype") or ""
    if dtype not in _DTYPES:
        raise Unsupported(f"{state.file}: {name} was stored as {dtype!r}", hint="Use the 16-bit base.")
    count, block = math.prod(sizes), _positive(said, "blocksize")
    blocks = math.ceil(count / block)
    packed = _part(name, "", held, ("U8",), math.ceil(count / 2))
    table = _part(name, ".quant_map", held, ("F32",), 16)
    if f"{name}.nested_absmax" not in held:
        scales = Scales(values=_part(name, ".absmax", held, ("F32",), blocks))
    else:
        nested = _positive(said, "nested_blocksize")
        scales = Scales(
            values=_part(name, ".absmax", held, ("U8",), blocks),
            nested_values=_part(name, ".nested_absmax", held, ("F32",), math.ceil(blocks / nested)),
            nested_map=_part(name, ".nested_quant_map", held, ("F32",), 256),
            nested_block=nested,
            nested_offset=said.number("nested_offset") or 0.0,
        )
    return Quantized4Bit(name=name, shape=sizes, dtype=dtype, packed=packed, table=table, block=block, scales=scales)


def _read_state(state: TensorEntry) -> JsonObject:
    if state.dtype != "U8" or state.size_bytes > _STATE_LIMIT_BYTES:
        raise InputInvalid(f"{state.file}: {state.name} is no text of at most {_STATE_LIMIT_BYTES} bytes", hint=_AGAIN)
    try:
        with state.file.open("rb") as file:
            file.seek(state.offset)
            text = file.read(state.size_bytes).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputInvalid(f"{state.file}: {state.name} cannot be read ({error})", hint=_AGAIN) from None
    return JsonObject(path=state.file, values=parse_object(text, path=state.file), where=state.name)


def _part(name: str, end: str, held: Mapping[str, TensorEntry], dtypes: tuple[str, ...], count: int) -> TensorEntry:
    entry = held.get(f"{name}{end}")
    if entry is None:
        raise InputInvalid(f"{next(iter(held.values())).file.parent}: has no {name}{end}", hint=_AGAIN)
    if entry.dtype not in dtypes or math.prod(entry.shape) != count:
        raise InputInvalid(
            f"{entry.file}: {entry.name} has {math.prod(entry.shape)} values of {entry.dtype}, {name} needs {count} of "
            f"{dtypes[0]}",
            hint=_AGAIN,
        )
    return entry


def _positive(said: JsonObject, key: str) -> int:
    value = said.integer(key)
    if value is None or value < 1:
        raise said.wrong(key, "a positive whole number")
    return value
