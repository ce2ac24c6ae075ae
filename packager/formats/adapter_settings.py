"""What an adapter_config.json says was trained, beside the rank and scale of every module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packager.errors import InputInvalid, Unsupported
from packager.formats.json_file import JsonObject
from packager.formats.lora_scaling import LoraScaling

_BIASES = ("none", "all", "lora_only")


@dataclass(frozen=True, kw_only=True)
class AdapterSettings:
    """The part of an adapter_config.json that decides what its tensors mean.

    Attributes:
        path: The file, for messages.
        scaling: Rank and scale of every module.
        dora: Whether every update has a magnitude.
        bias: `none`, `all` (every bias of the model was trained) or `lora_only` (those of the adapted modules).
        lora_bias: Whether B has a bias.
        saved_modules: The ends of the names of modules that were trained whole; peft compares text, not parts of names.
        tokens: Trained rows by the end of a module's name; the empty name is the input embedding.
        ties: Whether peft keeps tied embeddings tied by training both sides as one (`ensure_weight_tying`).
        parameters: The names or ends of names of the parameters that were adapted as such (`target_parameters`).
        targets: The names or ends of names of the adapted modules; empty where the file does not list them.
    """

    path: Path
    scaling: LoraScaling
    dora: bool
    bias: str
    lora_bias: bool
    saved_modules: tuple[str, ...]
    tokens: Mapping[str, tuple[int, ...]]
    ties: bool
    targets: tuple[str, ...]
    parameters: tuple[str, ...]

    @staticmethod
    def read(config: JsonObject) -> AdapterSettings:
        """Give the settings of an adapter_config.json.

        Raises:
            InputInvalid: A value makes no sense.
            Unsupported: DoRA and lora_bias together, or DoRA on tied embeddings that are kept tied, which peft computes
                otherwise unmerged than merged.
        """
        bias = config.text("bias") or "none"
        if bias not in _BIASES:
            raise config.wrong("bias", "none, all or lora_only")
        settings = AdapterSettings(
            path=config.path,
            scaling=LoraScaling.read(config),
            dora=bool(config.flag("use_dora")),
            bias=bias,
            lora_bias=bool(config.flag("lora_bias")),
            saved_modules=_names(config, "modules_to_save"),
            tokens=_tokens(config),
            ties=bool(config.flag("ensure_weight_tying")),
            targets=_targets(config),
            parameters=_names(config, "target_parameters"),
        )
        if settings.dora and settings.lora_bias:
            raise Unsupported(
                f"{config.path}: use_dora and lora_bias together, for which peft has no merge",
                hint="Train with one of them.",
            )
        return settings

    def saves(self, module: str) -> bool:
        """Whether a module was trained whole: it, or a module that it is in, ends in a name of modules_to_save."""
        parts = module.split(".")
        above = (".".join(parts[:count]) for count in range(1, len(parts) + 1))
        return any(name.endswith(self.saved_modules) for name in above)

    def tokens_of(self, module: str, *, embedding: bool) -> tuple[int, ...] | None:
        """Give a module's trained rows, None where it has none; `embedding` is whether it is the input embedding."""
        if embedding and "" in self.tokens:
            return self.tokens[""]
        return next((rows for name, rows in self.tokens.items() if name and module.endswith(name)), None)


def _names(config: JsonObject, key: str) -> tuple[str, ...]:
    names = config.items(key)
    if not all(isinstance(name, str) and name for name in names):
        raise config.wrong(key, "a list of names")
    return tuple(str(name) for name in names)


def _tokens(config: JsonObject) -> dict[str, tuple[int, ...]]:
    value = config.values.get("trainable_token_indices")
    lists = value if isinstance(value, dict) else {"": value} if value else {}
    found: dict[str, tuple[int, ...]] = {}
    for name, rows in lists.items():
        if not isinstance(rows, list) or not all(type(row) is int and row >= 0 for row in rows):
            raise config.wrong("trainable_token_indices", "token ids")
        if len(set(rows)) != len(rows):
            twice = next(row for row in rows if rows.count(row) > 1)
            raise InputInvalid(f"{config.path}: trainable_token_indices names token {twice} twice", hint="Train again.")
        found[str(name)] = tuple(rows)
    return found


def _targets(config: JsonObject) -> tuple[str, ...]:
    limited = ("layers_to_transform", "layers_pattern", "exclude_modules")
    value = config.values.get("target_modules")
    if not isinstance(value, list) or any(config.values.get(key) for key in limited):
        return ()
    return _names(config, "target_modules")
