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
_COMMAND = (sys.executable, "-P", "-m", "packager.weights.vocabulary_child")


class VocabularyReader:
    """Reads a folder's vocabulary, with a child that starts at once; use it in a `with` statement.

    Args:
        folder: A Hugging Face folder; only its config and tokenizer files are read.
        tree: The converter.
        tokenizer: The folder whose tokenizer is read, for a fine-tune with one of its own; None for the same.
        vocab_size: The rows that the embedding has after the fine-tune; None for what config.json says.
    """

    def __init__(
        self, folder: Path, tree: LlamaCppTree, *, tokenizer: Path | None = None, vocab_size: int | None = None
    ) -> None:
        self._folder = folder
        self._grown = {"tokenizer": str(tokenizer or folder), "vocab_size": str(vocab_size or "")}
        self._tree = tree
        self._worker = WorkerProcess(_COMMAND)
        self._worker.start()

    def read(self) -> tuple[MetadataEntry, ...]:
        """Give the `tokenizer.*` metadata that a conversion of the folder writes, its chat template included.

        Raises:
            Unsupported: The converter does not know the architecture or the tokenizer.
            InputInvalid: The tokenizer cannot be read.
            ToolMissing: The converter imports a package for this tokenizer that is not installed.
        """
        return tuple(entry for entry in self._metadata({}) if entry.key.startswith(_PREFIX))

    def read_with_parameters(self) -> tuple[MetadataEntry, ...]:
        """Give what `read` gives, after `general.architecture` and the architecture's own keys.

        Raises:
            Unsupported, InputInvalid, ToolMissing: As `read`.
        """
        return self._metadata({"parameters": "yes"})

    def _metadata(self, more: dict[str, str]) -> tuple[MetadataEntry, ...]:
        folder, tree = self._folder, self._tree
        with tempfile.TemporaryDirectory(prefix="packager-") as scratch:
            output = Path(scratch) / "vocabulary.gguf"
            question = {
                "folder": str(folder), "tree": str(tree.path), "version": tree.version, "output": str(output),
                **self._grown, **more,
            }  # fmt: skip
            answer = self._ask(question)
            if answer:
                answer = _ask_with_torch(question)
            if "missing" in answer:
                raise ToolMissing(answer["missing"], hint="Install the package that is named, beside packager.")
            if "unsupported" in answer:
                raise Unsupported(f"{folder}: llama.cpp's converter: {answer['unsupported']}")
            if answer:
                raise InputInvalid(
                    f"{folder}: llama.cpp's converter cannot read the tokenizer ({answer['failed']})",
                    hint="Save the tokenizer again with save_pretrained, or download it again.",
                )
            return read_gguf(output).metadata

    def __enter__(self) -> VocabularyReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.close()

    def _ask(self, question: dict[str, str]) -> dict[str, str]:
        try:
            return _answer(self._worker, question)
        except WorkerFailed as error:
            return {"failed": str(error)}


def vocabulary_of_folder(folder: Path, tree: LlamaCppTree) -> tuple[MetadataEntry, ...]:
    """Give what `VocabularyReader.read` gives."""
    with VocabularyReader(folder, tree) as reader:
        return reader.read()


def vocabulary_of_gguf(path: Path) -> tuple[MetadataEntry, ...]:
    """Give the `tokenizer.*` metadata of a GGUF file.

    Raises:
        InputInvalid: The file is damaged, or has no tokenizer.
    """
    found = tuple(entry for entry in read_gguf(path).metadata if entry.key.startswith(_PREFIX))
    if not any(entry.key == "tokenizer.ggml.tokens" for entry in found):
        raise InputInvalid(f"{path}: there is no tokenizer in it", hint="Is it an adapter or a projector?")
    return found


def _ask_with_torch(question: dict[str, str]) -> dict[str, str]:
    try:
        with WorkerProcess((*_COMMAND, "--torch")) as worker:
            return _answer(worker, question)
    except WorkerFailed as error:
        raise ToolMissing(
            f"llama.cpp's converter {error}", hint='Install what it needs: pip install "ollama-packager[build]"'
        ) from error


def _answer(worker: WorkerProcess, question: dict[str, str]) -> dict[str, str]:
    line = worker.ask(json.dumps(question).encode(), timeout_s=_TIMEOUT_S, limit_bytes=_ANSWER_BYTES)
    answer: dict[str, str] = json.loads(line)
    return answer
