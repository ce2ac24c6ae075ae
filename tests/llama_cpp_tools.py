"""llama.cpp's own programs, as the reference that our GGUF files are compared with."""

from __future__ import annotations

import ctypes
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType

from packager.artifacts import Quant
from packager.formats.gguf import GgufHeader, MetadataEntry, read_gguf
from packager.quants import FILE_TYPES
from packager.sources.llama_cpp_tree import LlamaCppTree


def convert(tree: LlamaCppTree, checkpoint: Path, kind: str, output: Path) -> Path:
    """Run convert_hf_to_gguf.py as a program."""
    script = str(tree.path / "convert_hf_to_gguf.py")
    command = [sys.executable, script, str(checkpoint), "--outtype", kind, "--outfile", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return output


_PROGRAM = """
import json, runpy, sys
for line in sys.stdin:
    sys.argv = json.loads(line)
    runpy.run_path(sys.argv[0], run_name="__main__")
    print("done", flush=True)
"""


class ConverterProgram:
    """convert_hf_to_gguf.py as a program that stays: one checkpoint after the other, imports made once."""

    def __init__(self, tree: LlamaCppTree, log: Path) -> None:
        self._script = str(tree.path / "convert_hf_to_gguf.py")
        self._log = log

    def __enter__(self) -> ConverterProgram:
        command = [
            sys.executable,
            "-c",
            f"import sys; sys.path.insert(0, {str(Path(self._script).parent)!r}){_PROGRAM}",
        ]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate(timeout=60)

    def convert(self, checkpoint: Path, kind: str, output: Path) -> Path:
        """Do what `convert` does."""
        arguments = [self._script, str(checkpoint), "--outtype", kind, "--outfile", str(output)]
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(arguments) + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n", self._log.read_text()[-2000:]
        return output


def quantize(source: Path, output: Path, quant: Quant | None, matrix: dict[str, list[float]] | None = None) -> Path:
    """Run llama_model_quantize; without a quant it copies, as `llama-quantize SOURCE OUTPUT COPY` does.

    `matrix` has the importance of the columns by tensor, as `llama-quantize --imatrix` passes it on.
    """
    import llama_cpp

    silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    try:
        parameters = llama_cpp.llama_model_quantize_default_params()
        parameters.only_copy = quant is None
        parameters.ftype = FILE_TYPES[quant] if quant is not None else 0
        entries = [
            llama_cpp.llama_model_imatrix_data(name.encode(), (ctypes.c_float * len(values))(*values), len(values))
            for name, values in (matrix or {}).items()
        ]
        if matrix is not None:
            listed = (llama_cpp.llama_model_imatrix_data * (len(entries) + 1))(*entries)
            parameters.imatrix = ctypes.cast(listed, ctypes.POINTER(llama_cpp.llama_model_imatrix_data))
        assert llama_cpp.llama_model_quantize(str(source).encode(), str(output).encode(), parameters) == 0
    finally:
        llama_cpp.llama_log_set(ctypes.cast(None, llama_cpp.llama_log_callback), ctypes.c_void_p(0))
    return output


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def metadata(header: GgufHeader) -> dict[str, MetadataEntry]:
    return {entry.key: entry for entry in header.metadata}


def differing_keys(ours: Path, theirs: Path) -> set[str]:
    """Keys that one file lacks or has with another type or value."""
    mine, other = metadata(read_gguf(ours)), metadata(read_gguf(theirs))
    return {key for key in mine.keys() | other.keys() if mine.get(key) != other.get(key)}


def differing_tensors(ours: Path, theirs: Path) -> list[str]:
    """Tensors that one file lacks or has with another shape, type or byte."""
    mine = {tensor.name: tensor for tensor in read_gguf(ours).tensors}
    other = {tensor.name: tensor for tensor in read_gguf(theirs).tensors}
    found = sorted(mine.keys() ^ other.keys())
    with ours.open("rb") as my_file, theirs.open("rb") as other_file:
        for name in sorted(mine.keys() & other.keys()):
            a, b = mine[name], other[name]
            my_file.seek(a.offset)
            other_file.seek(b.offset)
            same = my_file.read(a.size_bytes) == other_file.read(b.size_bytes)
            if (a.shape, a.type) != (b.shape, b.type) or not same:
                found.append(name)
    return found
