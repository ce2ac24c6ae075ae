"""A pickle of torch.save, run so that nothing in it has a meaning but tensors and containers.

Nothing that it names is imported: tensors become records of where their bytes lie, `OrderedDict` is itself, and everything else
is a stand-in that does nothing. Before the first instruction runs, its opcodes are compared with those that torch.save writes.

Runs in the child of `packager.sources.torch_archive`, and imports only the standard library.

Source: torch 2.15, `torch/serialization.py` (`_save`, `_load`) and `torch/_utils.py`.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

_DIMENSIONS = 16
_INSTRUCTIONS = 4_000_000  # of 100000 tensors; each can keep some hundred bytes
# What torch.save and mmengine's save_checkpoint write, in pickle protocols 2 to 4; no extension registry, no buffers, no INST.
_OPCODES = frozenset(
    """
    PROTO STOP MARK POP POP_MARK DUP FRAME MEMOIZE PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET NONE NEWTRUE NEWFALSE
    INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT BINSTRING SHORT_BINSTRING BINUNICODE SHORT_BINUNICODE
    BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST APPEND APPENDS
    EMPTY_DICT DICT SETITEM SETITEMS EMPTY_SET ADDITEMS FROZENSET GLOBAL STACK_GLOBAL REDUCE BUILD NEWOBJ NEWOBJ_EX BINPERSID
    """.split()  # noqa: SIM905  # sixty words in quotation marks are no table
)  # fmt: skip
_DTYPES = {
    "DoubleStorage": ("F64", 8), "FloatStorage": ("F32", 4), "HalfStorage": ("F16", 2), "BFloat16Storage": ("BF16", 2),
    "LongStorage": ("I64", 8), "IntStorage": ("I32", 4), "ShortStorage": ("I16", 2), "CharStorage": ("I8", 1),
    "ByteStorage": ("U8", 1), "BoolStorage": ("BOOL", 1),
}  # fmt: skip


class Invalid(Exception):
    """The file is no weights of torch.save, or damaged."""


class Unsafe(Exception):
    """The file does what no file with weights does."""


class Storage(NamedTuple):
    """Bytes of the archive: the record `data/key`, with `elements` of `item_bytes` bytes each."""

    dtype: str
    item_bytes: int
    key: str
    elements: int


class Tensor(NamedTuple):
    """A view of a storage; offset and stride count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def contiguous(self) -> bool:
        """Whether its elements lie in row-major order without gaps."""
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if size != 1 and stride != expected:
                return False
            expected *= size
        return True

    @property
    def size_bytes(self) -> int:
        """What it takes when it is written."""
        return math.prod(self.shape) * self.storage.item_bytes


class _StorageType(NamedTuple):
    dtype: str
    item_bytes: int


class StandIn:
    """Stands for everything that a pickle names and that is no tensor: takes anything, does nothing."""

    def __new__(cls, *_: object, **__: object) -> StandIn:
        """Take anything."""
        return object.__new__(cls)

    def __init__(self, *_: object, **__: object) -> None: ...

    def __call__(self, *_: object, **__: object) -> StandIn:
        """Give itself."""
        return self

    def __setstate__(self, _: object) -> None: ...

    def __setitem__(self, _: object, __: object) -> None: ...

    def append(self, _: object) -> None:
        """Do nothing."""

    def extend(self, _: object) -> None:
        """Do nothing."""

    def add(self, _: object) -> None:
        """Do nothing."""


class _Rebuild:
    """What tensors are rebuilt by; no attribute of it can be set."""

    __slots__ = ()

    def __call__(self, storage: object, offset: object, shape: object, stride: object, *_: object) -> Tensor:
        """Stand for `torch._utils._rebuild_tensor_v2`."""
        return _checked(storage, offset, shape, stride)


class _Unwrap:
    """What a Parameter is rebuilt by."""

    __slots__ = ()

    def __call__(self, data: object, *_: object) -> object:
        """Stand for `torch._utils._rebuild_parameter`."""
        return data


def run(program: bytes) -> tuple[object, list[str]]:
    """Give what a pickle of torch.save holds, and the globals that it named and did not get, sorted.

    Raises:
        Unsafe: It has an instruction that no file with weights has.
        Invalid: It has a tensor that makes no sense. A damaged pickle raises what `pickle` raises.
    """
    check_opcodes(program)
    reader = _Reader(program)
    return reader.load(), sorted(reader.stand_ins)


def check_opcodes(program: bytes) -> None:
    """Refuse an instruction that no file with weights has; nothing is run."""
    for number, (opcode, argument, position) in enumerate(pickletools.genops(program)):
        if number >= _INSTRUCTIONS:
            raise Unsafe(f"has more than {_INSTRUCTIONS} pickle instructions")
        if opcode.name not in _OPCODES:
            raise Unsafe(
                f"has the pickle instruction {opcode.name} at byte {position}, which torch.save does not write"
            )
        if opcode.name in ("PUT", "LONG_BINPUT") and (not isinstance(argument, int) or argument > len(program)):
            raise Unsafe(f"asks for a memo of {argument} entries")


class _Reader(pickle.Unpickler):
    """Runs a pickle in which nothing has a meaning but tensors and containers."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self.stand_ins: set[str] = set()

    def find_class(self, module: str, name: str) -> object:
        """Give what a global means here."""
        known = _MEANINGS.get(f"{module}.{name}")
        if known is not None:
            return known
        if module == "torch" and name in _DTYPES:
            return _StorageType(*_DTYPES[name])
        self.stand_ins.add(f"{module}.{name}"[:120])
        return StandIn

    def persistent_load(self, found: object) -> Storage:
        """Give the storage that a persistent id names."""
        if not isinstance(found, tuple) or len(found) != 5 or found[0] != "storage":
            raise Invalid(f"names a storage as {str(found)[:60]}")
        _, kind, key, _, elements = found
        if not isinstance(kind, _StorageType) or not isinstance(key, str) or type(elements) is not int or elements < 0:
            raise Invalid(f"has a storage of an unknown kind ({str(kind)[:60]})")
        return Storage(dtype=kind.dtype, item_bytes=kind.item_bytes, key=key, elements=elements)


_MEANINGS: Mapping[str, object] = {
    "collections.OrderedDict": OrderedDict,
    "torch._utils._rebuild_tensor_v2": _Rebuild(),
    "torch._utils._rebuild_parameter": _Unwrap(),
}


def _checked(storage: object, offset: Any, shape: object, stride: object) -> Tensor:
    if not isinstance(storage, Storage) or not isinstance(shape, tuple) or not isinstance(stride, tuple):
        raise Invalid("has a tensor without a storage, a shape or a stride")
    numbers = (offset, *shape, *stride)
    if len(shape) != len(stride) or len(shape) > _DIMENSIONS or any(type(n) is not int or n < 0 for n in numbers):
        raise Invalid(f"has a tensor of the shape {str(shape)[:60]} with the stride {str(stride)[:60]}")
    tensor = Tensor(storage=storage, offset=offset, shape=shape, stride=stride)
    last = tensor.offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if math.prod(shape) and last >= storage.elements:
        raise Invalid(f"has a tensor that reaches to element {last} of {storage.elements}")
    return tensor
