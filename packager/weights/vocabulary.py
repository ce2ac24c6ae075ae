"""A checkpoint's tokenizer as GGUF metadata, without its weights.

llama.cpp's converter reads it, in a process of its own where that takes about three seconds; in this one it would load torch.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from packager.errors import InputInvalid, ToolMissing, Unsupported
from packager.formats.gguf import MetadataEntry, read_gguf
from packager.sources.llama_cpp_tree import LlamaCppTree
from packager.worker_process import WorkerFailed, WorkerProcess

_TIMEOUT_S = 120.0
_ANSWER_BYTES = 1 << 16
_PREFIX = "tokenizer."


def vocabulary_of_folder(folder: Path, tree: LlamaCppTree) -> tuple[MetadataEntry, ...]:
    """Give the `tokenizer.*` metadata that a conversion of this folder writes, the folder's chat template included.

    Args:
        folder: A Hugging Face folder; only its config and tokenizer files are read.
        tree: The converter.

    Raises:
        Unsupported: The converter does not know the architecture or the tokenizer.
        InputInvalid: The tokenizer cannot be read.
        ToolMissing: The converter imports a package for this tokenizer that is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="packager-") as scratch:
        output = Path(scratch) / "vocabulary.gguf"
        question = {"folder": str(folder), "tree": str(tree.path), "version": tree.version, "output": str(output)}
        answer = _ask(question)
        if answer:
            answer = _ask(question, "--torch")
        if "missing" in answer:
            raise ToolMissing(answer["missing"], hint="Install the package that is named, beside packager.")
        if "unsupported" in answer:
            raise Unsupported(f"{folder}: llama.cpp's converter: {answer['unsupported']}")
        if answer:
            raise InputInvalid(
                f"{folder}: llama.cpp's converter cannot read the tokenizer ({answer['failed']})",
                hint="Save the tokenizer again with save_pretrained, or download it again.",
            )
        return vocabulary_of_gguf(output)


def vocabulary_of_gguf(path: Path) -> tuple[MetadataEntry, ...]:
    """Give the `tokenizer.*` metadata of a GGUF file.

    Raises:
        InputInvalid: The file is damaged, or has no tokenizer.
    """
    found = tuple(entry for entry in read_gguf(path).metadata if entry.key.startswith(_PREFIX))
    if not any(entry.key == "tokenizer.ggml.tokens" for entry in found):
        raise InputInvalid(f"{path}: there is no tokenizer in it", hint="Is it an adapter or a projector?")
    return found


def _ask(question: dict[str, str], *arguments: str) -> dict[str, str]:
    command = (sys.executable, "-P", "-m", "packager.weights.vocabulary_child", *arguments)
    try:
        with WorkerProcess(command) as worker:
            line = worker.ask(json.dumps(question).encode(), timeout_s=_TIMEOUT_S, limit_bytes=_ANSWER_BYTES)
    except WorkerFailed as error:
        if arguments:
            raise ToolMissing(
                f"llama.cpp's converter {error}", hint='Install what it needs: pip install "ollama-packager[build]"'
            ) from error
        return {"failed": str(error)}
    answer: dict[str, str] = json.loads(line)
    return answer
