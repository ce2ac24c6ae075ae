"""llama.cpp's converter as modules of this process, beside the installed `gguf` of another version.

The converter comes with its own `gguf`, and imports both by name, some of it only when a function runs. transformers imports
the installed `gguf` in the same process. So the tree's modules are under those names only while the converter is at work.
"""

from __future__ import annotations

import importlib
import logging
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from packager.errors import ToolMissing
from packager.sources.llama_cpp_tree import LlamaCppTree
from packager.weights.configured_tokenizer import configured_tokenizer
from packager.weights.ranked_vocabulary import rank_scores

_LOGGERS = ("hf-to-gguf", "gguf", "gguf.gguf_writer", "gguf.vocab", "metadata", "transformers")
_one_at_a_time = threading.RLock()
_loaded: dict[Path, dict[str, ModuleType]] = {}


@contextmanager
def converter_modules(tree: LlamaCppTree) -> Iterator[ModuleType]:
    """Make the tree's `gguf` and `conversion` the ones that are imported, and put back what was there before.

    Yields:
        The tree's `gguf`; `sys.modules["conversion"]` is the converter. Their chatter is silenced, errors are not.

    Raises:
        ToolMissing: Something that the converter imports is not installed.
    """
    with _one_at_a_time:
        kept_path, kept = list(sys.path), _take_modules()
        sys.modules.update(_loaded.get(tree.path, {}))
        sys.path[:0] = [str(tree.path), str(tree.path / "gguf-py")]
        levels = {name: logging.getLogger(name).level for name in _LOGGERS}
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            importlib.import_module("conversion")
            yield importlib.import_module("gguf")
        except ImportError as error:
            hint = "Install what it needs: pip install 'ollama-packager[build]'"
            raise ToolMissing(f"{tree.path}: the converter cannot be imported ({error})", hint=hint) from error
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
            _loaded[tree.path] = _take_modules()
            sys.modules.update(kept)
            sys.path[:] = kept_path


def model_class(
    folder: Path, index: Callable[[Any], dict[str, Callable[[], Any]]], *, tokenizer: Path | None = None
) -> Any:
    """Give the converter's class for a folder's architecture, reading its tensors from `index` instead of from files.

    Only inside `converter_modules`.

    Args:
        folder: The Hugging Face folder; its config.json names the architecture.
        index: Called with the model, gives every tensor's name and what loads it.
        tokenizer: The folder whose tokenizer is read; None for the same.

    Raises:
        NotImplementedError: The converter does not know the architecture.
    """
    conversion: Any = sys.modules["conversion"]
    hparams = conversion.ModelBase.load_hparams(folder, False)
    architecture = conversion.get_model_architecture(hparams, conversion.ModelType.TEXT)
    try:
        found = conversion.get_model_class(architecture)
    except KeyError:  # its table names the module of a speech or vision part, which has no such class for text
        raise NotImplementedError(f"no class for {architecture}") from None

    class Supplied(conversion.ModelBase):  # type: ignore[misc]  # loaded at run time
        """Stands between the architecture's classes and ModelBase, so that their own `index_tensors` still apply."""

        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            if (rotary := (self.hparams.get("rope_parameters") or {}).get("partial_rotary_factor")) is not None:
                # Where GPT-NeoX says it; transformers 5 moves it when it reads config.json, and the converter misses it.
                self.hparams.setdefault("rotary_pct", rotary)

        def index_tensors(self, remote_hf_model_id: str | None = None) -> dict[str, Callable[[], Any]]:
            return index(self)

    def get_vocab_base_pre(self: Any, loaded: Any) -> str:
        try:
            name: str = found.get_vocab_base_pre(self, loaded)
        except NotImplementedError:
            name = found.get_vocab_base_pre(self, configured_tokenizer(self.dir_model, loaded))
        return name

    def set_vocab(self: Any) -> None:
        with _tokenizer_beside_config(folder, tokenizer) as self.dir_model:
            try:
                found.set_vocab(self)
            except (FileNotFoundError, SystemExit):  # the latter is what some architectures do without tokenizer.model
                try:
                    self._set_vocab_llama_hf()
                except (FileNotFoundError, TypeError) as error:
                    raise FileNotFoundError(f"tokenizer.model is missing, which it wants for {architecture}") from error
            rank_scores(self.dir_model, self.gguf_writer)
        self.dir_model = folder

    members = {"model_arch": found.model_arch, "get_vocab_base_pre": get_vocab_base_pre, "set_vocab": set_vocab}
    return type(found.__name__, (found, Supplied), members)


@contextmanager
def _tokenizer_beside_config(folder: Path, tokenizer: Path | None) -> Iterator[Path]:
    """Give a folder with a tokenizer and the base's configuration, from which special tokens are read as well."""
    if tokenizer is None or tokenizer == folder:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="packager-tokenizer-") as made:
        for source in (*tokenizer.iterdir(), folder / "config.json", folder / "generation_config.json"):
            link = Path(made) / source.name
            if source.is_file() and source.suffix in (".json", ".model", ".txt", ".jinja") and not link.exists():
                link.symlink_to(source.absolute())
        yield Path(made)


def _take_modules() -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name.partition(".")[0] in ("gguf", "conversion")]
    return {name: sys.modules.pop(name) for name in names}
