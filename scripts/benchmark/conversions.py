"""What the kernels have to do for a set of GGUF files, read from the files' headers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path

from packager.formats.gguf import GgmlType, read_gguf


@dataclass(frozen=True, kw_only=True)
class Work:
    """Rows to convert.

    Attributes:
        columns: Elements of a row.
        rows: How many rows, of all tensors together.
        kinds: The numbers of the GGML types that each of them is wanted in.
    """

    columns: int
    rows: int
    kinds: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class FloorCost:
    """What the kernels took: from the first row to the last, and of the processor."""

    seconds: float
    cpu_seconds: float


def work_of(ggufs: Iterable[Path]) -> tuple[Work, ...]:
    """Give what has to be converted for GGUF files of one model: what their headers say, each type of a tensor once.

    float32 is what the rows are in already: it is no work.
    """
    shapes: dict[str, tuple[int, int]] = {}
    kinds: dict[str, set[int]] = {}
    for gguf in ggufs:
        for tensor in read_gguf(gguf).tensors:
            shapes[tensor.name] = (tensor.shape[-1], prod(tensor.shape[:-1]))
            if tensor.type is not GgmlType.F32:
                kinds.setdefault(tensor.name, set()).add(int(tensor.type))
    rows: Counter[tuple[int, tuple[int, ...]]] = Counter()
    for name, wanted in kinds.items():
        columns, count = shapes[name]
        rows[columns, tuple(sorted(wanted))] += count
    return tuple(Work(columns=columns, rows=count, kinds=types) for (columns, types), count in sorted(rows.items()))
