"""What an adapter makes of one tensor's rows: every update in order, each on the result of the one before.

All sums and products are float32, as peft's on a float32 base. DoRA's length of an output's weights is taken over a row where
the base stores `(out, in)`; where it stores `(in, out)`, and for an embedding, it is taken over a column, which needs one more
pass over the tensor's blocks, made once.

Source:
    LoRA: arXiv:2106.09685, eq. 3; peft 0.21 `LoraLayer.get_delta_weight` (`transpose(B @ A, fan_in_fan_out) * scaling`).
    DoRA: arXiv:2402.09353, eq. 5; peft 0.21 `DoraLinearVariant.merge_safe`, `DoraEmbeddingVariant.merge_safe`.
    Trained tokens: peft 0.21 `TrainableTokensLayer.merge` (`index_copy`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Protocol

import torch

from packager.artifacts import AddedVector, ExpertPair, LoraPair, ReplacedRows, ReplacedTensor, TensorEntry, Update
from packager.weights.expert_updates import expert_update


class TensorReader(Protocol):
    """Reads stored tensors, from any number of threads at once."""

    def read(self, entry: TensorEntry, first: int, end: int) -> torch.Tensor:
        """Give the rows `first` to `end` of a tensor seen as a matrix, as they are stored."""
        ...

    def read_columns(self, entry: TensorEntry, first: int, end: int) -> torch.Tensor:
        """Give the columns `first` to `end` of a tensor seen as a matrix, as they are stored."""
        ...


Blocks = Callable[[int, int], Iterator[tuple[int, int]]]


class UpdatedTensor:
    """One tensor with its updates.

    Args:
        entry: The base's tensor.
        shape: `(rows, columns)` after the updates.
        updates: What changes it, in order; at least one.
        reader: Reads base and adapter.
        blocks: Gives the row blocks of a matrix.
    """

    def __init__(
        self,
        entry: TensorEntry,
        shape: tuple[int, int],
        updates: tuple[Update, ...],
        reader: TensorReader,
        blocks: Blocks,
    ) -> None:
        self._entry = entry
        self._shape = shape
        self._updates = updates
        self._reader = reader
        self._blocks = blocks
        self._lengths: dict[int, torch.Tensor] = {}
        self._lock = threading.RLock()  # an earlier update of the same tensor may need lengths, too

    def rows(self, first: int, end: int) -> torch.Tensor:
        """Give the rows `first` to `end`, a block of `blocks`: shape `(end - first, columns)`, float32."""
        return self._rows(first, end, len(self._updates))

    def _rows(self, first: int, end: int, count: int) -> torch.Tensor:
        """Give the rows after the first `count` updates; what is replaced as a whole is not computed."""
        source, start = self._entry, 0
        for index, update in enumerate(self._updates[:count]):
            if isinstance(update, ReplacedTensor):
                source, start = update.value, index + 1
        block = self._float32(source, first, end)
        for index in range(start, count):
            block = self._applied(index, block, first, end)
        return block

    def _applied(self, index: int, block: torch.Tensor, first: int, end: int) -> torch.Tensor:
        match self._updates[index]:
            case LoraPair() as pair:
                return self._rescaled(index, pair, block + self._delta(pair, first, end), first, end)
            case ExpertPair() as pair:
                return block + expert_update(pair, self._reader, self._shape[0], first, end)
            case ReplacedRows() as tokens:
                return self._with_tokens(tokens, block, first, end)
            case AddedVector() as added:
                return block + self._float32(added.value, 0, 1) * added.scale
            case ReplacedTensor() as whole:
                return self._float32(whole.value, first, end)

    def _delta(self, pair: LoraPair, first: int, end: int) -> torch.Tensor:
        rank = pair.a.shape[0]
        if pair.transposed:  # the base holds (in, out): its rows are columns of A
            a = self._reader.read_columns(pair.a, first, end).to(torch.float32)
            return (self._float32(pair.b, 0, pair.b.shape[0]) @ a).T * pair.scale
        return (self._float32(pair.b, first, end) @ self._float32(pair.a, 0, rank)) * pair.scale

    def _rescaled(self, index: int, pair: LoraPair, summed: torch.Tensor, first: int, end: int) -> torch.Tensor:
        """Give every output's weights the length that DoRA's magnitude says."""
        if pair.magnitude is None:
            return summed
        wanted = self._float32(pair.magnitude, 0, 1).reshape(-1)
        if pair.transposed:
            return summed * (wanted / self._column_lengths(index, pair)).reshape(1, -1)
        lengths: torch.Tensor = torch.linalg.norm(summed, dim=1)
        return (wanted[first:end] / lengths).reshape(-1, 1) * summed

    def _column_lengths(self, index: int, pair: LoraPair) -> torch.Tensor:
        with self._lock:
            if index not in self._lengths:
                squares = torch.zeros(self._shape[1], dtype=torch.float64)
                for first, end in self._blocks(*self._shape):
                    block = self._rows(first, end, index) + self._delta(pair, first, end)
                    squares += block.to(torch.float64).square().sum(dim=0)
                self._lengths[index] = squares.sqrt().to(torch.float32)
            return self._lengths[index]

    def _with_tokens(self, tokens: ReplacedRows, block: torch.Tensor, first: int, end: int) -> torch.Tensor:
        inside = [(place, row) for place, row in enumerate(tokens.rows) if first <= row < end]
        if inside:
            block = block.clone()
            for place, row in inside:
                block[row - first] = self._float32(tokens.values, place, place + 1)[0]
        return block

    def _float32(self, entry: TensorEntry, first: int, end: int) -> torch.Tensor:
        return self._reader.read(entry, first, end).to(torch.float32)
