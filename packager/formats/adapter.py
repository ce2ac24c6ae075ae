"""A PEFT LoRA folder as a checked value: every tensor of its file in exactly one update of the base.

Unlike `PeftModel.from_pretrained`, which warns about keys it does not know and leaves the module untouched, a tensor
that has no place in the base is an error here, and so is every adapter kind that is not plain LoRA or rsLoRA.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packager.artifacts import Adapter, Checkpoint, LoraPair, TensorEntry
from packager.errors import InputInvalid, UnsafeInput, Unsupported
from packager.formats.adapter_kinds import other_tensor, refuse_other_kinds
from packager.formats.checkpoint import folder_name, list_names
from packager.formats.json_file import JsonObject, read_object, refuse_code
from packager.formats.lora_scaling import LoraScaling
from packager.formats.safetensors import read_header
from packager.formats.tokenizer import read_chat_template

WEIGHTS = "adapter_model.safetensors"
_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])(\.default)?\.weight")
_COPY = re.compile(r"base_model\.model\.(?P<module>.+)\.base_layer\.weight")
_FLOATS = ("F32", "BF16", "F16")
# transformers' Conv1D stores (in, out). peft decides by the layer's class and overrules fan_in_fan_out where they
# disagree (peft 0.21, `lora.layer.dispatch_default`), so the class is what counts here, too.
_CONV1D = {
    "GPT2LMHeadModel": ("c_attn", "q_attn", "c_proj", "c_fc"),
    "OpenAIGPTLMHeadModel": ("c_attn", "c_proj", "c_fc"),
}
_CHUNK_BYTES = 4 << 20


def read_adapter(folder: Path, base: Checkpoint) -> Adapter:
    """Give the low-rank updates of a PEFT folder, each matched with the tensor of `base` that it changes.

    The scale follows peft: `alpha / rank`, `alpha / sqrt(rank)` under rsLoRA, with alpha_pattern and rank_pattern by
    peft's regex rules.

    Raises:
        InputInvalid: A file is missing or damaged, or a tensor does not fit the base; the message has both values.
        UnsafeInput: The weights are a pickle, or a configuration asks for code.
        Unsupported: The adapter is of another kind than plain LoRA or rsLoRA, named in the message.
    """
    config = _read_config(folder)
    refuse_other_kinds(config)
    base_name = config.text("base_model_name_or_path") or None
    matcher = _Matcher(
        path=folder / WEIGHTS,
        base=base,
        tensors={entry.name: entry for entry in base.tensors},
        scaling=LoraScaling.read(config),
        trained_on=_trained_on(base_name, base),
    )
    pairs = matcher.match(read_header(matcher.path))
    if not pairs:
        raise InputInvalid(f"{matcher.path}: holds no LoRA tensor", hint="Pass an adapter saved after training.")
    return Adapter(
        folder=folder,
        name=folder_name(folder),
        base_name=base_name,
        pairs=pairs,
        chat_template=read_chat_template(folder),
    )


def _read_config(folder: Path) -> JsonObject:
    names = list_names(folder)
    if "adapter_config.json" not in names:
        raise InputInvalid(f"{folder}: no adapter_config.json", hint=_missing_config_hint(folder, names))
    config = read_object(folder / "adapter_config.json")
    refuse_code(config)
    if "tokenizer_config.json" in names:
        refuse_code(read_object(folder / "tokenizer_config.json"))
    if WEIGHTS not in names:
        if "adapter_model.bin" in names:
            raise UnsafeInput(
                f"{folder}: adapter_model.bin is a pickle, which can run code when it is opened; there is no {WEIGHTS}",
                hint="Convert it where you trust it: PeftModel.from_pretrained(BASE_MODEL, DIR).save_pretrained(DIR)",
            )
        raise InputInvalid(f"{folder}: no {WEIGHTS}", hint="Copy the whole folder that peft's save_pretrained wrote.")
    return config


def _missing_config_hint(folder: Path, names: tuple[str, ...]) -> str:
    numbers = [int(match[1]) for name in names if (match := re.fullmatch(r"checkpoint-(\d{1,12})", name, re.ASCII))]
    saved = [path for n in sorted(numbers) if ((path := folder / f"checkpoint-{n}") / "adapter_config.json").is_file()]
    if saved:
        return f"Pass the newest checkpoint: {saved[-1]}"
    if "config.json" in names:
        return f"This is a base; without an adapter, run: packager build {folder}"
    return "Pass the folder that peft's save_pretrained wrote."


def _trained_on(base_name: str | None, base: Checkpoint) -> str:
    if base_name is None or Path(base_name).name == base.name:
        return "Pass the base this adapter was trained on."
    return f"Pass the base this adapter was trained on: it recorded {base_name}, not {base.name}."


@dataclass(frozen=True, kw_only=True)
class _Matcher:
    """Finds the base tensor of every adapter tensor, and refuses what has none."""

    path: Path
    base: Checkpoint
    tensors: Mapping[str, TensorEntry]
    scaling: LoraScaling
    trained_on: str

    def match(self, entries: tuple[TensorEntry, ...]) -> tuple[LoraPair, ...]:
        sides: dict[str, dict[str, TensorEntry]] = {}
        for entry in entries:
            if copy := _COPY.fullmatch(entry.name):
                self._check_copy(entry, f"{copy['module']}.weight")
                continue
            key = _KEY.fullmatch(entry.name)
            if key is None:
                bare = entry.name.removeprefix("base_model.model.")
                raise other_tensor(self.path, entry.name, bare in self.tensors)
            module = sides.setdefault(key["module"], {})
            if key["side"] in module:
                raise InputInvalid(
                    f"{self.path}: {module[key['side']].name!r} and {entry.name!r} change the same tensor",
                    hint="Save the adapter again with one adapter in it.",
                )
            module[key["side"]] = entry
        return tuple(self._pair(module, sides[module]) for module in sorted(sides))

    def _pair(self, module: str, sides: Mapping[str, TensorEntry]) -> LoraPair:
        for side, other in ("AB", "BA"):
            if side not in sides:
                raise InputInvalid(
                    f"{self.path}: has lora_{other} but no lora_{side} for {module}", hint="Save the adapter again."
                )
        a, b = sides["A"], sides["B"]
        target = self._target(module, a)
        transposed = module.rsplit(".", 1)[-1] in _CONV1D.get(self.base.architecture, ())
        self._check_shapes(a, b, target, module, transposed)
        return LoraPair(target=target.name, a=a, b=b, scale=self.scaling.scale_of(module), transposed=transposed)

    def _target(self, module: str, a: TensorEntry) -> TensorEntry:
        if self.base.ties_embeddings and module.rsplit(".", 1)[-1] in ("lm_head", "embed_out"):
            raise Unsupported(
                f"{self.path}: the adapter changes {module}, which {self.base.folder} ties to its embedding "
                f"(tensor {a.name!r})",
                hint="Train without this module, or merge it with peft and tie_word_embeddings false.",
            )
        target = self.tensors.get(f"{module}.weight")
        if target is None:
            raise self._unmatched(a)
        if len(target.shape) != 2 or len(a.shape) != 2:
            kind = "a convolution or a stack of matrices"
            raise Unsupported(
                f"{self.path}: {a.name!r} changes {target.name}, {kind} of shape {_shown(target.shape)}",
                hint="Only updates of plain matrices can be merged.",
            )
        return target

    def _check_shapes(self, a: TensorEntry, b: TensorEntry, target: TensorEntry, module: str, transposed: bool) -> None:
        for entry in (a, b):
            if entry.dtype not in _FLOATS or len(entry.shape) != 2:
                raise Unsupported(
                    f"{self.path}: {entry.name!r} is stored as {entry.dtype} {_shown(entry.shape)}",
                    hint="Save the adapter in float32, float16 or bfloat16.",
                )
        rows, columns = reversed(target.shape) if transposed else target.shape
        where = f"{target.name} of {self.base.folder} has"
        if a.shape[1] != columns:
            raise InputInvalid(
                f"{self.path}: {module}.lora_A takes {a.shape[1]} inputs, {where} {columns}", hint=self.trained_on
            )
        if b.shape[0] != rows:
            raise InputInvalid(
                f"{self.path}: {module}.lora_B gives {b.shape[0]} outputs, {where} {rows}", hint=self.trained_on
            )
        rank = self.scaling.rank_of(module)
        if a.shape[0] != rank or b.shape[1] != rank:
            raise InputInvalid(
                f"{self.scaling.path}: says rank {rank} for {module}, lora_A has {a.shape[0]} and lora_B {b.shape[1]}",
                hint="Take adapter_config.json and the weights from the same save.",
            )

    def _unmatched(self, entry: TensorEntry) -> InputInvalid:
        return InputInvalid(
            f"{self.path}: {entry.name!r} matches no tensor of {self.base.folder}", hint=self.trained_on
        )

    def _check_copy(self, entry: TensorEntry, name: str) -> None:
        """Accept the copy of a base weight that peft saves beside a LoRA on an output layer."""
        target = self.tensors.get(name)
        if target is None:
            raise self._unmatched(entry)
        if entry.shape != target.shape or not _same_values(entry, target):
            raise InputInvalid(
                f"{self.path}: {entry.name!r} differs from {target.name} of {self.base.folder}", hint=self.trained_on
            )


def _same_values(copy: TensorEntry, original: TensorEntry) -> bool:
    """Compare two tensors of one shape bit for bit; a bfloat16 original may have a float32 copy."""
    widened = (original.dtype, copy.dtype) == ("BF16", "F32")
    if copy.dtype != original.dtype and not widened:
        return False
    try:
        with copy.file.open("rb") as copy_file, original.file.open("rb") as original_file:
            copy_file.seek(copy.offset)
            original_file.seek(original.offset)
            for start in range(0, original.size_bytes, _CHUNK_BYTES):
                size = min(_CHUNK_BYTES, original.size_bytes - start)
                mine, theirs = copy_file.read(size * 2 if widened else size), original_file.read(size)
                if widened:  # a float32 of the same value is two zero bytes, then the bfloat16
                    expected = bytearray(size * 2)
                    expected[2::4], expected[3::4] = theirs[0::2], theirs[1::2]
                    theirs = bytes(expected)
                if mine != theirs:
                    return False
    except OSError as error:
        raise InputInvalid(
            f"{error.filename or copy.file}: cannot be read ({error.strerror})", hint="Check its permissions."
        ) from None
    return True


def _shown(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape) or "()"
