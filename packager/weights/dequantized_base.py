"""A base that bitsandbytes quantized to 4 bits, as a 16-bit checkpoint: what QLoRA training computed with.

Every value is `table[code] * scale` in float32, rounded once to the type that the weight had before it was quantized, which
is what bitsandbytes' kernels give the layers in training. It is computed in row blocks and written once into the user's
cache.

Source:
    bitsandbytes 0.48 `functional.dequantize_4bit` and `dequantize_blockwise` (blocks of the flattened weight; double
    quantization: `nested_map[code] * nested_scale + offset`).
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from filelock import FileLock

from packager.artifacts import Checkpoint, Dtype, Sampling, TensorEntry
from packager.codec import digest
from packager.durable import disk_errors, write_durably
from packager.errors import NoSpace, Unsupported
from packager.events import Advanced, Emit, silent
from packager.formats.bnb_4bit import Quantized4Bit, quantized_tensors
from packager.formats.checkpoint import folder_name, list_names
from packager.formats.json_file import JsonObject, read_object
from packager.formats.weight_files import read_weights
from packager.user_cache import cache_folder
from packager.weights.checkpoint_output import planned_tensors, write_checkpoint_weights
from packager.weights.merged import MergedTensors, matrix_shape, single_threaded_torch

STAGE = "dequantize"
_COPIED = (".json", ".jinja", ".model", ".txt", ".md")
_METHODS = ("bitsandbytes",)


def is_4bit(config: JsonObject) -> bool:
    """Whether a config.json is of a checkpoint that bitsandbytes quantized to 4 bits."""
    settings = config.child("quantization_config")
    if settings is None:
        return False
    four = settings.flag("load_in_4bit") or settings.flag("_load_in_4bit") or False
    return settings.text("quant_method") in (*_METHODS, None) and four


def dequantized_base(folder: Path, *, cache: Path | None = None, emit: Emit = silent) -> Path:
    """Give a folder with the base in 16 bits, made at the first call; a base that is not quantized is given back.

    Args:
        folder: The base.
        cache: Where it is kept; by default below the user's cache folder.
        emit: Told how many bytes are written.

    Raises:
        Unsupported: The base is quantized otherwise.
        InputInvalid: A tensor is missing or damaged.
        NoSpace: The disk has too little room; both sizes are named.
    """
    config = read_object(folder / "config.json")
    if config.values.get("quantization_config") is None:
        return folder
    if not is_4bit(config):
        raise Unsupported(
            f"{folder}: is quantized, and not by bitsandbytes to 4 bits", hint="Pass the 16-bit base it was made from."
        )
    tensors = read_weights(folder)
    root = cache or cache_folder() / "dequantized"
    final = root / digest(_identity(folder, tensors))[:16] / folder_name(folder)
    with disk_errors(root):
        final.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(final.parent / ".lock"):
            if not final.is_dir():
                _make(folder, config, tensors, final, emit)
    return final


def _identity(folder: Path, tensors: tuple[TensorEntry, ...]) -> tuple[str, ...]:
    files = sorted({entry.file for entry in tensors})
    states = [(file, file.stat()) for file in (folder / "config.json", *_copied_files(folder), *files)]
    return tuple(f"{file.resolve()} {status.st_size} {status.st_mtime_ns}" for file, status in states)


def _make(folder: Path, config: JsonObject, tensors: tuple[TensorEntry, ...], final: Path, emit: Emit) -> None:
    quantized, plain = quantized_tensors(tensors)
    dtype = _dtype(quantized)
    staging = Path(tempfile.mkdtemp(dir=final.parent, prefix=".new-"))
    try:
        with single_threaded_torch(), torch.inference_mode(), _Dequantized(folder, quantized, plain) as merged:
            total = sum(tensor.size_bytes for tensor in planned_tensors(merged, dtype))
            free = shutil.disk_usage(staging).free
            if total > free:
                raise NoSpace(
                    f"{staging.parent}: the 16-bit base takes {total / 1e9:.2f} GB, the disk has {free / 1e9:.2f} GB free",
                    hint="Set PACKAGER_CACHE to a folder on another disk.",
                )
            done = 0

            def advance(size: int, name: str) -> None:
                nonlocal done
                done += size
                emit(Advanced(stage=STAGE, done=done, total=total, unit="B", detail=name))

            write_checkpoint_weights(merged, dtype, staging, advance=advance)
        _copy_files(folder, config, dtype, staging)
        staging.replace(final)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _dtype(quantized: tuple[Quantized4Bit, ...]) -> Dtype:
    found = {weight.dtype for weight in quantized}
    return Dtype(found.pop()) if len(found) == 1 else Dtype.FLOAT32


def _copied_files(folder: Path) -> list[Path]:
    """Give the files that the 16-bit checkpoint has as they are: tokenizer, templates, card, licence."""
    return [
        folder / name
        for name in list_names(folder)
        if ((folder / name).suffix in _COPIED or name.lower().startswith("license"))
        and (folder / name).is_file()
        and name not in ("config.json", "model.safetensors.index.json")
    ]


def _copy_files(folder: Path, config: JsonObject, dtype: Dtype, output: Path) -> None:
    for source in _copied_files(folder):
        shutil.copyfile(source, output / source.name)
    values = {key: value for key, value in config.values.items() if key != "quantization_config"}
    keys = [key for key in ("dtype", "torch_dtype") if key in values] or ["torch_dtype"]
    text = json.dumps({**values, **dict.fromkeys(keys, dtype.value)}, indent=2)
    write_durably(output / "config.json", text + "\n")


class _Dequantized(MergedTensors):
    """The tensors of a quantized checkpoint with their values in float32 rounded to the type that they had."""

    def __init__(self, folder: Path, quantized: tuple[Quantized4Bit, ...], plain: tuple[TensorEntry, ...]) -> None:
        whole = tuple(replace(weight.packed, shape=weight.shape, dtype="F32") for weight in quantized)
        super().__init__(_as_base(folder, (*plain, *whole)), None)
        self._quantized = {weight.name: weight for weight in quantized}
        self._scales: tuple[str, torch.Tensor] = ("", torch.empty(0))

    def _computed(self, name: str, first: int, end: int) -> torch.Tensor:
        weight = self._quantized.get(name)
        if weight is None:
            return super()._computed(name, first, end)
        _, columns = matrix_shape(weight.shape)
        start, stop = first * columns, end * columns
        packed = self._flat(weight.packed, start // 2, (stop + 1) // 2)
        codes = torch.stack((packed >> 4, packed & 15), dim=1).reshape(-1)[start % 2 :][: stop - start]
        block = torch.arange(start, stop) // weight.block
        values = self._flat(weight.table, 0, 16)[codes.to(torch.int64)] * self._scales_of(weight)[block]
        return values.to(getattr(torch, weight.dtype)).to(torch.float32).reshape(end - first, columns)

    def _scales_of(self, weight: Quantized4Bit) -> torch.Tensor:
        if self._scales[0] != weight.name:
            scales = weight.scales
            values = self._flat(scales.values)
            if scales.nested_map is not None and scales.nested_values is not None:
                table, factors = self._flat(scales.nested_map), self._flat(scales.nested_values)
                blocks = torch.arange(len(values)) // scales.nested_block
                values = table[values.to(torch.int64)] * factors[blocks] + scales.nested_offset
            self._scales = (weight.name, values)
        return self._scales[1]

    def _flat(self, entry: TensorEntry, first: int = 0, end: int | None = None) -> torch.Tensor:
        count = matrix_shape(entry.shape)[0] * matrix_shape(entry.shape)[1]
        flat = replace(entry, shape=(count, 1))
        return self.read(flat, first, count if end is None else end).reshape(-1)


def _as_base(folder: Path, tensors: tuple[TensorEntry, ...]) -> Checkpoint:
    """Give a checkpoint of which only the tensors are read."""
    return Checkpoint(
        folder=folder,
        name=folder_name(folder),
        architecture="",
        dtype=Dtype.FLOAT32,
        hidden_size=0,
        layers=0,
        vocab_size=0,
        context_tokens=None,
        ties_embeddings=False,
        eos_token_ids=(),
        sampling=Sampling(),
        chat_template=None,
        license_id=None,
        license_file=None,
        tensors=tensors,
    )
