"""The process that reads a tokenizer with llama.cpp's converter: JSON requests in, JSON answers out, one line each.

The converter imports torch for its tensors, which takes longer than everything a vocabulary needs. So unless it is started
with `--torch`, this process gives it an empty module of that name; a tokenizer for which that does not do is answered with
`{"failed"}`, and asked for again with the real one.
"""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any, cast

from packager.errors import ToolMissing
from packager.formats.fine_tuned import resized_config
from packager.formats.gguf import MetadataEntry, header_bytes
from packager.sources.llama_cpp_tree import LlamaCppTree
from packager.weights.converter_modules import converter_modules, model_class
from packager.weights.gguf_metadata import metadata_entry


class _Members(type):
    """Gives a class any attribute that is asked for."""

    def __getattr__(cls, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Nothing

    def __or__(cls, other: object) -> type:  # type: ignore[override]  # in annotations such as `Tensor | None`
        return cls

    def __ror__(cls, other: object) -> type:  # type: ignore[override]
        return cls


class _Nothing(metaclass=_Members):
    """Stands for every class and function of torch while the converter's modules are defined."""

    def __init__(self, *_: object, **__: object) -> None:
        """Take what any of them takes."""

    def __call__(
        self, function: Any = None, *_: object, **__: object
    ) -> Any:  # a decorator gives back what it is given
        return function


class _Torch(types.ModuleType):
    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (_Nothing,), {})


def serve(answers: Any) -> None:
    """Say that this process is ready, then answer requests from stdin until it ends."""
    answers.write("ready\n")
    for line in sys.stdin:
        try:
            write_vocabulary(**cast("dict[str, str]", json.loads(line)))
        except Exception as error:  # noqa: BLE001  # whatever a tokenizer's code raises is the answer to the question
            text = str(error).strip() or type(error).__name__
            kinds = {NotImplementedError: "unsupported", ToolMissing: "missing"}
            kind = next((name for each, name in kinds.items() if isinstance(error, each)), "failed")
            answers.write(json.dumps({kind: text.splitlines()[0]}) + "\n")
        else:
            answers.write("{}\n")
        answers.flush()


def write_vocabulary(
    *,
    folder: str,
    tree: str,
    version: str,
    output: str,
    parameters: str = "",
    tokenizer: str = "",
    vocab_size: str = "",
) -> None:
    """Write a GGUF file that has the tokenizer's metadata, with `parameters` also the architecture's, and no tensors."""
    with converter_modules(LlamaCppTree(path=Path(tree), version=version)) as gguf:
        made = model_class(Path(folder), lambda _: {}, tokenizer=Path(tokenizer or folder))
        hparams = None
        if vocab_size:
            hparams = resized_config(made.load_hparams(Path(folder), made.is_mistral_format), int(vocab_size))
        model = made(Path(folder), gguf.LlamaFileType.MOSTLY_F16, Path("vocabulary.gguf"), hparams=hparams)
        if parameters:
            model.set_gguf_parameters()
        model.set_vocab()
        found = model.gguf_writer.kv_data[0].items()
        entries: list[MetadataEntry] = [metadata_entry(key, value) for key, value in found]
    Path(output).write_bytes(header_bytes(entries, ()))


def _without_torch() -> None:
    """Let transformers find no torch and the converter an empty one."""
    modules = cast("dict[str, types.ModuleType | None]", sys.modules)
    modules["torch"] = None
    from transformers import AutoTokenizer  # noqa: F401  # decides once, here, that there is no torch

    modules["torch"] = _Torch("torch")


if __name__ == "__main__":
    own_stdout, sys.stdout = sys.stdout, sys.stderr  # what libraries print must not be taken for an answer
    own_stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    if "--torch" not in sys.argv:
        _without_torch()
    serve(own_stdout)
