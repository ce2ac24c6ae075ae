"""A Hugging Face folder as a checked value: its configuration, its tensors, its chat template and its licence.

Nothing is executed and no weight is read: only json, text and safetensors headers. Unlike `AutoModel.from_pretrained`,
a file that disagrees with another one is an error here, not a warning.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from packager.artifacts import Checkpoint, Sampling, TensorEntry
from packager.errors import InputInvalid, UnsafeInput, Unsupported
from packager.formats.json_file import JsonObject, read_object, read_text, refuse_code
from packager.formats.recorded_base import full_precision_name
from packager.formats.tokenizer import read_chat_template
from packager.formats.weight_files import INDEX, SINGLE, main_dtype, read_weights

PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_EMBEDDINGS = (
    "embed_tokens.weight",
    "tok_embeddings.weight",
    "word_embeddings.weight",
    "wte.weight",
    "embed_in.weight",
)
_NOT_WEIGHTS = ("training_args", "optimizer", "scheduler", "rng_state")
_DEQUANTIZE = "build, plan, merge, quantize, verify"  # the commands that have --dequantize-base
_CHECKPOINT = re.compile(r"checkpoint-\d{1,12}", re.ASCII)
_LICENSE = re.compile(r"licen[cs]e(\.(txt|md))?", re.IGNORECASE)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Give what a base folder holds, with every tensor of its safetensors files accounted for.

    Symbolic links to regular files are followed, as a hub cache is made of them; the names in an index may not leave
    the folder.

    Raises:
        InputInvalid: Something is missing, damaged, or disagrees with something else in the folder.
        UnsafeInput: The weights are pickles, or a configuration asks for the author's code.
        Unsupported: The weights are quantized or of a dtype that cannot be merged exactly.
    """
    _check_folder(folder)
    config = read_object(folder / "config.json")
    generation = _optional(folder / "generation_config.json")
    for source in (config, generation, _optional(folder / "tokenizer_config.json")):
        if source is not None:
            refuse_code(source)
    _refuse_quantized(folder, config)
    text_config = config.child("text_config") or config
    tensors = read_weights(folder)
    vocab_size = _size(text_config, "vocab_size", "n_vocab")
    _check_vocabulary(folder, tensors, vocab_size)
    return Checkpoint(
        folder=folder,
        name=folder_name(folder),
        architecture=_architecture(config),
        dtype=main_dtype(folder, tensors),
        hidden_size=_size(text_config, "hidden_size", "n_embd", "d_model", "dim"),
        layers=_size(text_config, "num_hidden_layers", "n_layer", "n_layers", "num_layers"),
        vocab_size=vocab_size,
        context_tokens=_context_tokens(text_config),
        ties_embeddings=_ties_embeddings(config, text_config, tensors),
        eos_token_ids=_eos_token_ids(generation, config, text_config),
        sampling=_sampling(generation),
        chat_template=read_chat_template(folder),
        license_id=_front_matter(folder, "license"),
        license_file=_license_file(folder),
        tensors=tensors,
    )


def folder_name(folder: Path) -> str:
    """Give the name a folder is known by: its own, or the model's where it is a snapshot in a hub cache.

    A checkpoint of a training run is also known by the run.

    Example:
        `models--Qwen--Qwen3-0.6B/snapshots/c1899de` gives `Qwen3-0.6B`; so does ModelScope's
        `Qwen--Qwen3-0.6B/snapshots/master`. `packy/checkpoint-12` gives `packy-checkpoint-12`.
    """
    full = folder.absolute()
    if _CHECKPOINT.fullmatch(full.name) and full.parent.name:
        return f"{full.parent.name}-{full.name}"
    if full.parent.name == "snapshots" and "--" in full.parent.parent.name:
        return full.parent.parent.name.rsplit("--", 1)[-1]
    return full.name or full.resolve().name


def list_names(folder: Path) -> tuple[str, ...]:
    """Give the names in a folder, sorted.

    Raises:
        InputInvalid: It is missing, is no folder, is a GGUF file, or cannot be listed.
    """
    if folder.is_file():
        if folder.suffix.lower() == ".gguf":
            raise InputInvalid(
                f"{folder}: a GGUF file, expected a Hugging Face folder",
                hint="Pass the folder the GGUF was converted from; a quantized GGUF cannot be merged exactly.",
            )
        raise InputInvalid(f"{folder}: a file, expected a folder", hint=f"Pass its folder: {folder.parent}")
    try:
        return tuple(sorted(entry.name for entry in folder.iterdir()))
    except FileNotFoundError:
        raise InputInvalid(f"{folder}: no such folder", hint="Check the path.") from None
    except OSError as error:
        raise InputInvalid(f"{folder}: cannot be read ({error.strerror})", hint="Check its permissions.") from None


def _check_folder(folder: Path) -> None:
    names = list_names(folder)
    if not names:
        raise InputInvalid(f"{folder}: an empty folder", hint="Download the model into it, or pass another folder.")
    if "adapter_config.json" in names:
        if "config.json" in names:
            raise InputInvalid(
                f"{folder}: holds both config.json and adapter_config.json, so it is a base and an adapter at once",
                hint="Move adapter_config.json and adapter_model.safetensors into a folder of their own.",
            )
        recorded = read_object(folder / "adapter_config.json").text("base_model_name_or_path")
        raise InputInvalid(
            f"{folder}: an adapter (adapter_config.json), expected a base",
            hint=f"Pass the base first: packager build {shlex.quote(recorded or 'BASE')} {folder} -o DIR",
        )
    if SINGLE not in names and INDEX not in names:
        _refuse_without_weights(folder, names)
    if "config.json" not in names:
        raise InputInvalid(f"{folder}: no config.json", hint="Pass the folder that save_pretrained wrote.")


def _refuse_without_weights(folder: Path, names: tuple[str, ...]) -> None:
    pickles = [n for n in names if n.endswith(PICKLES) and not n.startswith(_NOT_WEIGHTS)]
    shards = [n for n in names if n.endswith(".safetensors")]
    ggufs = [n for n in names if n.lower().endswith(".gguf")]
    if shards:
        raise InputInvalid(
            f"{folder}: has {shards[0]} but no {SINGLE} and no {INDEX}", hint=f"Download {INDEX} as well."
        )
    if pickles:
        raise UnsafeInput(
            f"{folder}: {pickles[0]} is a pickle, which can run code when it is opened; there is no {SINGLE}",
            hint="Convert it where you trust it: model.save_pretrained(DIR, safe_serialization=True)",
        )
    if ggufs:
        raise InputInvalid(
            f"{folder}: only a GGUF ({ggufs[0]}), no {SINGLE}", hint="Pass the folder the GGUF was converted from."
        )
    raise InputInvalid(f"{folder}: no weights ({SINGLE} or {INDEX})", hint="Pass the folder that holds the weights.")


def _refuse_quantized(folder: Path, config: JsonObject) -> None:
    if config.values.get("quantization_config") is None:
        return
    settings = config.child("quantization_config")
    method = (settings.text("quant_method") if settings else None) or "unknown"
    recorded = _front_matter(folder, "base_model") or config.text("_name_or_path")
    own = folder_name(folder)
    base = full_precision_name(recorded or own)
    named = f"its 16-bit base {base}" if recorded or base != own else "the 16-bit base it was made from"
    four = settings is not None and method == "bitsandbytes" and (settings.flag("load_in_4bit") or False)
    raise Unsupported(
        f"{folder}: the weights are quantized ({method}), a merge needs 16-bit or 32-bit weights",
        hint=f"Pass {named}, or add --dequantize-base ({_DEQUANTIZE})." if four else f"Pass {named}.",
    )


def _architecture(config: JsonObject) -> str:
    names = config.items("architectures")
    if not names or not isinstance(names[0], str) or not names[0]:
        raise InputInvalid(
            f"{config.path}: names no architecture", hint='Add it, for example "architectures": ["Qwen2ForCausalLM"].'
        )
    return names[0]


def _size(config: JsonObject, *keys: str) -> int:
    for key in keys:
        value = config.integer(key)
        if value is not None:
            if value <= 0:
                raise config.wrong(key, "a positive number")
            return value
    raise InputInvalid(f"{config.path}: no {keys[0]}", hint="Download config.json again.")


def _context_tokens(config: JsonObject) -> int | None:
    for key in ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length", "n_ctx"):
        value = config.integer(key)
        if value is not None and value > 0:
            return value
    return None


def _ties_embeddings(config: JsonObject, text_config: JsonObject, tensors: tuple[TensorEntry, ...]) -> bool:
    for source in (text_config, config):
        declared = source.flag("tie_word_embeddings")
        if declared is not None:
            return declared
    # The default differs between architectures; a checkpoint without its own output layer has to share.
    return not any(entry.name.endswith(("lm_head.weight", "embed_out.weight", "output.weight")) for entry in tensors)


def _check_vocabulary(folder: Path, tensors: tuple[TensorEntry, ...], vocab_size: int) -> None:
    for entry in tensors:
        if entry.name.endswith(_EMBEDDINGS) and len(entry.shape) == 2 and entry.shape[0] != vocab_size:
            raise InputInvalid(
                f"{folder}: config.json says vocab_size {vocab_size}, {entry.name} has {entry.shape[0]} rows",
                hint="Take config.json and the weights from the same save.",
            )


def _eos_token_ids(*sources: JsonObject | None) -> tuple[int, ...]:
    for source in sources:
        value = source.values.get("eos_token_id") if source is not None else None
        if source is None or value is None:
            continue
        ids = value if isinstance(value, list) else [value]
        if not all(type(number) is int and number >= 0 for number in ids):
            raise source.wrong("eos_token_id", "a token id or a list of them")
        return tuple(ids)
    return ()


def _sampling(generation: JsonObject | None) -> Sampling:
    if generation is None:
        return Sampling()
    return Sampling(
        temperature=generation.number("temperature"),
        top_k=generation.integer("top_k"),
        top_p=generation.number("top_p"),
        min_p=generation.number("min_p"),
        repetition_penalty=generation.number("repetition_penalty"),
    )


def _front_matter(folder: Path, key: str) -> str | None:
    """Give a value of the model card's YAML header: a plain text, or the first entry of a list."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    header = re.match(r"---[ \t]*\n(.*?)\n---[ \t]*(\n|$)", read_text(card), re.DOTALL)
    found = header and re.search(
        rf"^{key}:[ \t]*(?:\n[ \t]*-[ \t]*|\[[ \t]*)?([^\n#,\]]+)", header.group(1), re.MULTILINE
    )
    return found.group(1).strip().strip("'\"") or None if found else None


def _license_file(folder: Path) -> Path | None:
    names = [name for name in list_names(folder) if _LICENSE.fullmatch(name) and (folder / name).is_file()]
    return folder / names[0] if names else None


def _optional(path: Path) -> JsonObject | None:
    return read_object(path) if path.exists() else None
