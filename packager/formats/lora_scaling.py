"""The rank and the scale of every module of a LoRA, by peft's own rules."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from packager.errors import InputInvalid
from packager.formats.json_file import JsonObject


@dataclass(frozen=True, kw_only=True)
class LoraScaling:
    """How an adapter_config.json turns a module's name into a rank and a scale.

    Attributes:
        path: The file, for messages.
        rank: `r`, for modules that no pattern of `ranks` matches.
        alpha: `lora_alpha`, for modules that no pattern of `alphas` matches.
        rank_stabilized: Whether the scale is divided by the square root of the rank (rsLoRA).
        ranks: rank_pattern, compiled, in the file's order; the first match counts. (peft sorts the keys when it saves, so
            that overlapping patterns can mean something else after loading than in training; loading is what counts.)
        alphas: alpha_pattern, likewise.

    Source:
        peft 0.21, `LoraModel._create_and_replace` and `LoraLayer.update_layer`; rsLoRA: arXiv:2312.03732.
    """

    path: Path
    rank: int
    alpha: float
    rank_stabilized: bool
    ranks: tuple[tuple[re.Pattern[str], float], ...]
    alphas: tuple[tuple[re.Pattern[str], float], ...]

    @staticmethod
    def read(config: JsonObject) -> LoraScaling:
        """Give the scaling rules of an adapter_config.json; InputInvalid when one of them makes no sense."""
        rank = config.integer("r")
        alpha = config.number("lora_alpha")
        if rank is None or rank < 1:
            raise config.wrong("r", "a positive whole number")
        if alpha is None:
            raise config.wrong("lora_alpha", "a number")
        return LoraScaling(
            path=config.path,
            rank=rank,
            alpha=alpha,
            rank_stabilized=bool(config.flag("use_rslora")),
            ranks=_patterns(config.child("rank_pattern")),
            alphas=_patterns(config.child("alpha_pattern")),
        )

    def rank_of(self, module: str) -> int:
        """Give the rank of a module, for example `model.layers.0.self_attn.q_proj`."""
        return int(_first_match(self.ranks, module, self.rank))

    def scale_of(self, module: str) -> float:
        """Give the factor in front of `B @ A` for a module: `alpha / rank`, or `alpha / sqrt(rank)` under rsLoRA."""
        rank = self.rank_of(module)
        return _first_match(self.alphas, module, self.alpha) / (math.sqrt(rank) if self.rank_stabilized else rank)


def _patterns(config: JsonObject | None) -> tuple[tuple[re.Pattern[str], float], ...]:
    if config is None:
        return ()
    found = []
    for pattern in config.values:
        value = config.number(pattern)
        if value is None or value <= 0:
            raise InputInvalid(
                f"{config.path}: the pattern {pattern[:80]!r} has no positive number", hint="Save the adapter again."
            )
        # Repeated groups and many repetitions make matching exponential; no rank pattern needs them.
        if len(pattern) > 300 or re.search(r"\)\s*[*+?{]", pattern) or len(re.findall(r"[*+?{]", pattern)) > 3:
            raise InputInvalid(
                f"{config.path}: the pattern {pattern[:80]!r} is too complex to be matched safely",
                hint="List the modules by name.",
            )
        try:
            # peft's own rule (peft 0.21, `peft.utils.other.get_pattern_key`)
            found.append((re.compile(rf"(.*\.)?({pattern})$"), value))
        except re.error as error:
            shown = f"{pattern[:80]!r} is no regular expression ({error})"
            raise InputInvalid(f"{config.path}: the pattern {shown}", hint="Save the adapter again.") from None
    return tuple(found)


def _first_match(patterns: tuple[tuple[re.Pattern[str], float], ...], module: str, default: float) -> float:
    return next((value for pattern, value in patterns if pattern.match(module)), default)
