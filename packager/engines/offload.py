"""Which part of a reference stays in memory, and what it costs when that is not all of it.

The reference runs in float32, twice the size of a 16-bit checkpoint. Where that does not fit, accelerate leaves the rest on the
disk and reads it again for every forward pass: the figures are the same, the time is another, and it is told beforehand.

Source: transformers 5.23 `from_pretrained(device_map="auto", max_memory=..., offload_folder=...)`: what is left out is read
from the checkpoint's own files; only weights that it has to convert first are written into the folder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from packager.artifacts import Checkpoint
from packager.errors import ToolMissing

_BYTES_PER_WEIGHT = 4
_KEPT_FREE_BYTES = 1_500_000_000  # imports, activations, logits of one conversation


@dataclass(frozen=True, kw_only=True)
class Offload:
    """A reference that is larger than memory.

    Attributes:
        weights_bytes: What its weights take in float32.
        stored_bytes: What they take in the checkpoint.
        memory_bytes: The most of `weights_bytes` that may be in memory.
        folder: Where weights go that have to be converted, in a folder of its own that is removed again.
    """

    weights_bytes: int
    stored_bytes: int
    memory_bytes: int
    folder: Path

    @property
    def reread_bytes(self) -> int:
        """What is read from the checkpoint again for every forward pass."""
        return round(self.stored_bytes * max(0.0, 1 - self.memory_bytes / self.weights_bytes))

    def cost(self, passes: int) -> str:
        """Say, before it starts, what running from the disk means."""
        total = self.reread_bytes * passes
        return (
            f"the reference takes {_gb(self.weights_bytes)} in float32 and {_gb(self.memory_bytes)} of memory may be used: "
            f"{_gb(self.reread_bytes)} are read from the disk again for each of up to {passes} forward passes, "
            f"{_gb(total)} in all (about {max(1, round(total / 1e9 / 60))} min at 1 GB/s)"
        )


def offload_for(base: Checkpoint, folder: Path, memory_bytes: int | None = None) -> Offload | None:
    """Decide whether the reference fits.

    Args:
        base: The base, whose weights are counted; an adapter is small beside them.
        folder: Where weights that have to be converted may lie.
        memory_bytes: The most memory for weights; None takes what is free now, less 1.5 GB for everything else. The largest
            tensor and two blocks are always allowed: with less, accelerate cannot place tied embeddings.

    Returns:
        None when all of it fits.
    """
    needed = _BYTES_PER_WEIGHT * sum(math.prod(entry.shape) for entry in base.tensors)
    allowed = memory_bytes if memory_bytes is not None else max(0, _free_memory_bytes() - _KEPT_FREE_BYTES)
    if needed <= allowed:
        return None
    largest = _BYTES_PER_WEIGHT * max(math.prod(entry.shape) for entry in base.tensors)
    allowed = max(allowed, largest + 2 * (needed - largest) // max(1, base.layers))
    stored = sum(entry.size_bytes for entry in base.tensors)
    return Offload(weights_bytes=needed, stored_bytes=stored, memory_bytes=allowed, folder=folder)


def _free_memory_bytes() -> int:
    try:
        import psutil
    except ModuleNotFoundError as error:
        raise ToolMissing(
            "the Python package psutil is not installed: the reference model cannot run",
            hint='Install it with: pip install "ollama-packager[build]"',
        ) from error
    return int(psutil.virtual_memory().available)


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
