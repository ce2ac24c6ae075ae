"""Files in the form of torch.save whose pickles do what no weights do. Made of pickle's own instructions, without torch."""

from __future__ import annotations

import pickle
import struct
import zipfile
from pathlib import Path

HEAD = b"\x80\x02"  # PROTO 2
# A state dict with one float32 tensor of two elements, as torch.save writes it.
TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000"
    b"X\x03\x00\x00\x00cpuK\x02tQK\x00K\x02\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR"
)


def call(module: str, name: str, *arguments: str) -> bytes:
    """Instructions that leave the result of `module.name(*arguments)` on the stack."""
    texts = b"".join(b"X" + struct.pack("<I", len(text.encode())) + text.encode() for text in arguments)
    return f"c{module}\n{name}\n".encode() + b"(" + texts + b"tR"


def mapping(*items: tuple[str, bytes]) -> bytes:
    """Instructions that leave a dict on the stack."""
    inside = b"".join(b"X" + struct.pack("<I", len(key)) + key.encode() + value for key, value in items)
    return b"}(" + inside + b"u"


def write_archive(path: Path, program: bytes, **records: bytes) -> Path:
    """A zip file in torch's layout: the pickle, its byte order, and two float32 elements unless told otherwise."""
    with zipfile.ZipFile(path, "w") as archive:
        held = {"data.pkl": program, "byteorder": b"little", "data/0": struct.pack("<2f", 1.0, 2.0), **records}
        for name, data in held.items():
            archive.writestr(f"archive/{name}", data)
    return path


def write_plain(path: Path) -> Path:
    """A good one."""
    return write_archive(path, HEAD + mapping(("w", TENSOR)) + b".")


def write_calling(path: Path, module: str, name: str, *arguments: str) -> Path:
    """One that calls a function on its way to a tensor."""
    return write_archive(path, HEAD + call(module, name, *arguments) + b"0" + mapping(("w", TENSOR)) + b".")


class Calls:
    """Pickled by Python itself: calls `function(*arguments)` when it is loaded."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.function, self.arguments


def write_plain_pickle(path: Path, value: object) -> Path:
    """No archive at all: what `pickle.dump` writes."""
    path.write_bytes(pickle.dumps(value, protocol=2))
    return path
