"""The update of one tensor of experts out of A and B that hold those of a whole layer.

Source:
    peft 0.21 `lora.layer.ParamWrapper.get_delta_weight`: with A as `(experts, rank, in)` and B as `(out, rank, experts)`, an
    expert's update is `einsum("o r e, e r i -> e o i")`.
"""

from __future__ import annotations

from typing import Protocol

import torch

from packager.artifacts import ExpertPair, TensorEntry


class RowsReader(Protocol):
    """Reads stored tensors."""

    def read(self, entry: TensorEntry, first: int, end: int) -> torch.Tensor:
        """Give the rows `first` to `end` of a tensor seen as a matrix, as they are stored."""
        ...


def expert_update(pair: ExpertPair, reader: RowsReader, rows: int, first: int, end: int) -> torch.Tensor:
    """Give the rows `first` to `end` of the update of a tensor seen as a matrix: float32, `(end - first, columns)`.

    Args:
        pair: The update.
        reader: Reads A and B.
        rows: All rows of the tensor; those of every expert in turn where it is a stack.
        first: First row.
        end: One after the last row.
    """
    if pair.expert is not None:
        return _of_expert(pair, pair.expert, reader, first, end)
    each = rows // pair.experts
    experts = range(first // each, (end - 1) // each + 1)
    ranges = [(expert, max(first - expert * each, 0), min(end - expert * each, each)) for expert in experts]
    return torch.cat([_of_expert(pair, expert, reader, start, stop) for expert, start, stop in ranges])


def _of_expert(pair: ExpertPair, expert: int, reader: RowsReader, first: int, end: int) -> torch.Tensor:
    rank = pair.a.shape[0] // pair.experts
    a = reader.read(pair.a, expert * rank, (expert + 1) * rank).to(torch.float32)
    outputs = (0, pair.b.shape[0]) if pair.transposed else (pair.first_output + first, pair.first_output + end)
    b = reader.read(pair.b, *outputs)[:, expert :: pair.experts].to(torch.float32)
    return (b @ a[:, first:end]).T * pair.scale if pair.transposed else (b @ a) * pair.scale
