"""What a merged checkpoint needs besides its weights: configuration, tokenizer, chat template, licence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from packager.artifacts import Adapter, Checkpoint, Dtype
from packager.formats.fine_tuned import changed_config, tokenizer_folder
from packager.formats.json_file import read_object
from packager.weights.gguf_output import disk_errors

# Copied byte for byte where the base has them. A pickle, a script or a weight file never is.
_COPIED = (
    "tokenizer.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)
_CARD = "README.md"
_CONFIG = "config.json"
_GENERATION = "generation_config.json"
_TOKENIZER_CONFIG = "tokenizer_config.json"
_TEMPLATE = "chat_template.jinja"


def write_checkpoint_files(
    base: Checkpoint, dtype: Dtype, chat_template: str | None, output: Path, *, adapter: Adapter | None = None
) -> tuple[Path, ...]:
    """Write everything of a checkpoint but its weights.

    Args:
        base: Where the files come from.
        dtype: What config.json says the weights are stored in.
        chat_template: Written to chat_template.jinja and to tokenizer_config.json, because transformers reads the first and
            gguf-py the second; None copies what the base has.
        output: A folder that exists.
        adapter: The fine-tune, whose vocabulary, tokenizer and untied embeddings the checkpoint has.

    Returns:
        The files that were written.
    """
    written = [_write_config(base, adapter, dtype, output / _CONFIG)]
    tokenizer = tokenizer_folder(base, adapter)
    if (base.folder / _GENERATION).is_file():
        written.append(_copy(base.folder / _GENERATION, output / _GENERATION))
    names = list(_COPIED) if chat_template is not None else [*_COPIED, _TOKENIZER_CONFIG, _TEMPLATE]
    for name in names:
        if (tokenizer / name).is_file():
            written.append(_copy(tokenizer / name, output / name))
    if (base.folder / _CARD).is_file():  # a GGUF made of the merged folder takes its licence and tags from it
        written.append(_copy(base.folder / _CARD, output / _CARD))
    if base.license_file is not None:
        written.append(_copy(base.license_file, output / base.license_file.name))
    if chat_template is not None:
        written += _write_template(tokenizer, chat_template, output)
    return tuple(written)


def write_tokenizer_files(folder: Path, chat_template: str, output: Path) -> None:
    """Write what renders and tokenizes a checkpoint's prompts, and nothing of its weights.

    Args:
        folder: Where the files come from.
        chat_template: Written to chat_template.jinja and to tokenizer_config.json.
        output: A folder that exists.
    """
    for name in (_CONFIG, _GENERATION, *_COPIED):
        if (folder / name).is_file():
            _copy(folder / name, output / name)
    _write_template(folder, chat_template, output)


def _write_config(base: Checkpoint, adapter: Adapter | None, dtype: Dtype, path: Path) -> Path:
    config = changed_config(read_object(base.folder / _CONFIG).values, base, adapter)
    keys = [key for key in ("dtype", "torch_dtype") if key in config] or ["torch_dtype"]
    config.update(dict.fromkeys(keys, dtype.value))
    return _write_json(path, config)


def _write_template(folder: Path, chat_template: str, output: Path) -> list[Path]:
    template = output / _TEMPLATE
    with disk_errors(template):
        template.write_text(chat_template, encoding="utf-8", newline="\n")
    source = folder / _TOKENIZER_CONFIG
    config = dict(read_object(source).values) if source.is_file() else {}
    config["chat_template"] = chat_template
    return [template, _write_json(output / _TOKENIZER_CONFIG, config)]


def _write_json(path: Path, values: dict[str, object]) -> Path:
    text = json.dumps(values, indent=2, ensure_ascii=False)
    if any("\ud800" <= character <= "\udfff" for character in text):  # half a character: JSON can say it, UTF-8 cannot
        text = json.dumps(values, indent=2)
    with disk_errors(path):
        path.write_text(text + "\n", encoding="utf-8", newline="\n")
    return path


def _copy(source: Path, target: Path) -> Path:
    with disk_errors(target):
        shutil.copyfile(source, target)
    return target
