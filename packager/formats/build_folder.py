"""What lies in a build folder, read from the files themselves."""

from __future__ import annotations

import hashlib
from pathlib import Path

from packager.artifacts import Gguf, Modelfile, Quant
from packager.errors import InputInvalid, Usage
from packager.formats.gguf import read_gguf
from packager.formats.modelfile import parse_modelfile
from packager.quants import quant_of_file_type

MODELFILE_NAME = "Modelfile"
IMATRIX_NAME = "imatrix.gguf"  # a GGUF file, and no model


def find_ggufs(folder: Path) -> tuple[Gguf, ...]:
    """Give every GGUF of a folder, from the most exact to the smallest, with its type from its header and its digest.

    Raises:
        InputInvalid: The folder is missing or has no GGUF; a file is damaged, or of a type that no build writes; two
            files have the same type.
    """
    if not folder.is_dir():
        raise InputInvalid(f"{folder}: no such folder", hint="packager build BASE ADAPTER -o DIR")
    found: dict[Quant, Gguf] = {}
    for path in _models(folder):
        gguf = describe_gguf(path)
        if gguf.quant in found:
            raise InputInvalid(
                f"{folder}: {found[gguf.quant].path.name} and {path.name} are both {gguf.quant.value}",
                hint="Keep one of them in the folder.",
            )
        found[gguf.quant] = gguf
    if not found:
        raise InputInvalid(f"{folder}: no GGUF file", hint=f"packager build BASE ADAPTER -o {folder}")
    return tuple(found[quant] for quant in Quant if quant in found)


def importance_name(source: Path) -> str:
    """Give the name that a copy of an importance matrix has in a build folder: `imatrix.gguf`, or `imatrix.dat`."""
    return IMATRIX_NAME if source.suffix == ".gguf" else "imatrix.dat"


def _models(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.gguf") if path.name != IMATRIX_NAME)


def describe_gguf(path: Path) -> Gguf:
    """Give one GGUF file's quant and digest.

    Raises:
        InputInvalid: The file is damaged, or of a type that no build writes.
    """
    header = read_gguf(path)
    number = next((entry.value for entry in header.metadata if entry.key == "general.file_type"), None)
    quant = quant_of_file_type(number)
    if quant is None:
        raise InputInvalid(
            f"{path}: general.file_type is {number}, which no build writes", hint="packager quantize SRC -o DIR"
        )
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Gguf(path=path, quant=quant, sha256=sha256, size_bytes=path.stat().st_size)


def choose_gguf(folder: Path, quant: Quant | None, *, command: str) -> Path:
    """Give one GGUF of a folder by its name: that of the quant, the one its Modelfile names, or the only one.

    Args:
        folder: The build folder.
        quant: Which one; None leaves it to the Modelfile.
        command: What to type with a file's name, for the hint.

    Raises:
        InputInvalid: There is none, or the Modelfile cannot be read.
        Usage: There are several.
    """
    files = _models(folder)
    modelfile = read_modelfile(folder) if quant is None else None
    if quant is not None:
        files = [file for file in files if file.stem.upper().endswith(f"-{quant.value.upper()}")]
    elif modelfile is not None:
        files = [file for file in files if file.name == Path(modelfile.gguf).name] or files
    if not files:
        which = f"no {quant.value} GGUF file" if quant else "no GGUF file"
        raise InputInvalid(f"{folder}: {which}", hint=f"packager build BASE ADAPTER -o {folder}")
    if len(files) > 1:
        raise Usage(f"{folder} has {len(files)} GGUF files", hint=f"Name one: {command} {files[0]}")
    return files[0]


def read_modelfile(folder: Path) -> Modelfile | None:
    """Give the Modelfile of a folder, None when there is none.

    Raises:
        InputInvalid: It cannot be read.
    """
    path = folder / MODELFILE_NAME
    if not path.is_file():
        return None
    try:
        return parse_modelfile(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not UTF-8, byte {error.start}"
        raise InputInvalid(
            f"{path}: cannot be read ({reason})", hint="Make it again with: packager modelfile"
        ) from error
