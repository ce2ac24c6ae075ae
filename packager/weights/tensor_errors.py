"""Every tensor of a GGUF file against the merged weights it should hold.

The merged weights come through llama.cpp's own converter, so that names, permutations and shapes are its own. They are read in
row blocks, rounded to the type that the file has by llama.cpp's own kernel, and compared with what the file holds; a few
blocks are in memory at a time. The file may be anybody's: what it has too many or too few, in another shape or in a type
that cannot be read is told, not raised.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import numpy as np
import torch

from packager.artifacts import Adapter, Checkpoint
from packager.cores import usable_cores
from packager.durable import disk_errors
from packager.errors import InputInvalid
from packager.events import Advanced, Emit, silent
from packager.evidence import TensorError
from packager.formats.gguf import GGML_TYPE_SIZES, GgufHeader, GgufTensor, read_gguf
from packager.sources.llama_cpp_tree import LlamaCppTree
from packager.weights.block_errors import BlockErrors, Floats, Rows, block_errors
from packager.weights.converter import Conversion, ConvertedTensor
from packager.weights.importance import Importance, RowImportance, importance_for
from packager.weights.kernels import can_round, convert_rows, is_coarse, read_rows
from packager.weights.merged import MergedTensors, byte_view, matrix_shape, row_blocks, single_threaded_torch
from packager.weights.stream import RowReader, row_reader
from packager.weights.tensor_faults import TensorFault, TensorParts, fault_text, tensor_error

STAGE = "tensors"
_DIRECTIONS = 8


@dataclass(frozen=True, kw_only=True)
class TensorComparison:
    """The tensors of one file against the merged weights.

    Attributes:
        tensors: Every tensor that was compared, in the file's order.
        faults: Those that rounding does not explain, in the file's order.
        missing: Names that the file should have and has not.
        unexpected: Names that it has and should not.
        reshaped: `NAME is (1, 2), not (2, 1)` for tensors of another shape.
        unread: `NAME (TYPE)` for tensors of a type that cannot be compared.
    """

    tensors: tuple[TensorError, ...]
    faults: tuple[TensorFault, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...]
    unread: tuple[str, ...]

    @property
    def worst(self) -> tuple[TensorError, ...]:
        """The tensors with a fault, the one with the largest relative error, beyond what rounding gives, first."""
        names = {fault.tensor for fault in self.faults}
        found = [tensor for tensor in self.tensors if tensor.tensor in names]
        return tuple(sorted(found, key=lambda tensor: tensor.expected_error - tensor.relative_error))


def tensor_errors(
    path: Path, base: Checkpoint, adapter: Adapter | None, tree: LlamaCppTree, *, emit: Emit = silent
) -> TensorComparison:
    """Compare one file; see `MergedModel.compare`."""
    with MergedModel(base, adapter, tree) as model:
        return model.compare(path, emit=emit)


class MergedModel:
    """Base and adapter as llama.cpp's converter maps them, for any number of files; use it in a `with` statement.

    Args:
        base: The checkpoint.
        adapter: The fine-tune; None compares with the base alone.
        tree: The converter.

    Raises:
        Unsupported: llama.cpp does not know the architecture.
        InputInvalid: The converter refuses the checkpoint.
    """

    def __init__(self, base: Checkpoint, adapter: Adapter | None, tree: LlamaCppTree) -> None:
        self._base, self._adapter, self._tree = base, adapter, tree
        self._stack = ExitStack()

    def __enter__(self) -> MergedModel:
        with ExitStack() as stack:
            stack.enter_context(single_threaded_torch())
            self._merged = stack.enter_context(MergedTensors(self._base, self._adapter))
            self._plain = stack.enter_context(MergedTensors(self._base, None))
            self.conversion = Conversion(self._base, self._merged, self._tree)
            self._evaluated = self._evaluated_base()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def compare(self, path: Path, *, header: GgufHeader | None = None, emit: Emit = silent) -> TensorComparison:
        """Compare the tensors of one file.

        Args:
            path: A GGUF file.
            header: Its header, where that was read before.
            emit: Told how many bytes of tensors are compared, under the stage `tensors`.

        Raises:
            InputInvalid: The file is missing, or its header is damaged; or a merged value is not finite.
        """
        header = header or read_gguf(path)
        expected = {tensor.name: tensor for tensor in self.conversion.tensors}
        if self._base.ties_embeddings and "token_embd.weight" in expected:  # some converters write the tied one twice
            expected.setdefault("output.weight", expected["token_embd.weight"])
        common = [tensor for tensor in header.tensors if tensor.name in expected]
        shaped = [
            tensor for tensor in common if matrix_shape(tensor.shape) == matrix_shape(expected[tensor.name].shape)
        ]
        importance = self._importance(path, header)
        readable = {
            tensor.name
            for tensor in shaped
            if can_round(tensor.type, importance=importance is not None and tensor.name in importance.names)
        }
        pairs = [(tensor, expected[tensor.name]) for tensor in shaped if tensor.name in readable]
        compared = list(self._compared(path, pairs, importance, emit))
        return TensorComparison(
            tensors=tuple(error for error, _ in compared),
            faults=tuple(TensorFault(tensor=error.tensor, text=text) for error, text in compared if text),
            missing=_missing(self.conversion, header),
            unexpected=tuple(tensor.name for tensor in header.tensors if tensor.name not in expected),
            reshaped=tuple(
                f"{tensor.name} is {tensor.shape}, not {expected[tensor.name].shape}"
                for tensor in common
                if tensor not in shaped
            ),
            unread=tuple(f"{tensor.name} ({tensor.type.name})" for tensor in shaped if tensor.name not in readable),
        )

    def _importance(self, path: Path, header: GgufHeader) -> Importance | None:
        """Give the importance matrix that a file says it was made with, where it lies beside it and is this model's."""
        name = header.value("quantize.imatrix.file")
        file = path.parent / Path(name).name if isinstance(name, str) and name else path
        if file == path or not file.is_file():
            return None
        try:
            return importance_for(file, [(tensor.name, tensor.shape) for tensor in self.conversion.tensors])
        except InputInvalid:
            return None

    def _compared(
        self, path: Path, pairs: list[tuple[GgufTensor, ConvertedTensor]], importance: Importance | None, emit: Emit
    ) -> Iterator[tuple[TensorError, str]]:
        total, done = sum(tensor.size_bytes for tensor, _ in pairs), 0
        with disk_errors(path), path.open("rb") as file, ThreadPoolExecutor(usable_cores()) as pool:
            tasks = [self._tasks(path, file.fileno(), tensor, expected, importance) for tensor, expected in pairs]
            results = pool.map(_BlockTask.__call__, (task for each in tasks for task in each))
            for (tensor, _), each in zip(pairs, tasks, strict=True):
                parts = tuple(next(results) for _ in each)
                found = TensorParts(name=tensor.name, type=tensor.type, rows=matrix_shape(tensor.shape)[0], parts=parts)
                error = tensor_error(found)
                done += tensor.size_bytes
                emit(Advanced(stage=STAGE, done=done, total=total, unit="B", detail=f"{path.name} {tensor.name}"))
                yield error, "" if error.worst_row is None else fault_text(found, error, self._heads(tensor.name))

    def _tasks(
        self, path: Path, file: int, tensor: GgufTensor, expected: ConvertedTensor, importance: Importance | None
    ) -> list[_BlockTask]:
        rows, columns = matrix_shape(tensor.shape)
        merged, plain = row_reader(expected, self._merged), self._plain_reader(expected)
        return [
            _BlockTask(
                path=path,
                file=file,
                tensor=tensor,
                first=first,
                end=end,
                merged=merged,
                plain=plain,
                probe=_directions(columns) if self._heads(tensor.name) else None,
                importance=None if importance is None else importance.rows_of(tensor.name, tensor.shape),
            )
            for first, end in row_blocks(rows, columns)
        ]

    def _heads(self, name: str) -> int:
        if name.endswith("attn_q.weight"):
            return self.conversion.facts.heads
        return self.conversion.facts.heads_kv if name.endswith("attn_k.weight") else 0

    def _plain_reader(self, expected: ConvertedTensor) -> RowReader | None:
        """Give the base's rows of a tensor that the adapter may have changed."""
        if expected.source is None:
            plain = self._evaluated.get(expected.name)
            return None if plain is None else row_reader(plain, self._plain)
        changed = self._adapter is not None and expected.source in self._adapter.targets
        return row_reader(expected, self._plain) if changed and self._has_before(expected.source) else None

    def _has_before(self, name: str) -> bool:
        """Whether the base has a tensor in the shape that it has after merging."""
        return any(entry.name == name and entry.shape == self._merged.shape(name) for entry in self._plain.entries)

    def _evaluated_base(self) -> dict[str, ConvertedTensor]:
        """Give the base's own version of every tensor that the converter computes rather than renames."""
        if self._adapter is None or all(tensor.source is not None for tensor in self.conversion.tensors):
            return {}
        plain = Conversion(self._base, self._plain, self._tree)
        return {tensor.name: tensor for tensor in plain.tensors if tensor.source is None}


@dataclass(frozen=True, kw_only=True)
class _BlockTask:
    path: Path
    file: int
    tensor: GgufTensor
    first: int
    end: int
    merged: RowReader
    plain: RowReader | None
    probe: Floats | None
    importance: RowImportance | None

    def __call__(self) -> BlockErrors:
        kind, (_, columns) = self.tensor.type, matrix_shape(self.tensor.shape)
        count = self.end - self.first
        with torch.inference_mode():
            merged = self.merged.rows(self.first, self.end)
            weights = self.importance
            data = convert_rows(merged, [kind], self.tensor.name, first=self.first, importance=weights)[kind]
            raw, theirs = self._read(len(data)), torch.frombuffer(data, dtype=torch.uint8)
            found = read_rows(raw, kind, count, columns).numpy()
            rows = Rows(first=self.first, merged=merged.numpy(), found=found, rounded=found, coarse=is_coarse(kind))
            if not torch.equal(raw, theirs):
                update = None if self.plain is None else (merged - self.plain.rows(self.first, self.end)).numpy()
                rounded = read_rows(theirs, kind, count, columns).numpy()
                rows = replace(rows, rounded=rounded, update=update, probe=self.probe)
            return block_errors(rows)

    def _read(self, size: int) -> torch.Tensor:
        raw = torch.empty(size, dtype=torch.uint8)
        elements, block_bytes = GGML_TYPE_SIZES[self.tensor.type]
        columns = matrix_shape(self.tensor.shape)[1]
        view, offset = byte_view(raw), self.tensor.offset + self.first * columns // elements * block_bytes
        while view:
            count = os.preadv(self.file, [view], offset)
            if count == 0:
                raise InputInvalid(f"{self.path}: ends inside tensor {self.tensor.name}", hint="Build the file again.")
            view, offset = view[count:], offset + count
        return raw


def _missing(conversion: Conversion, header: GgufHeader) -> tuple[str, ...]:
    there = {tensor.name for tensor in header.tensors}
    return tuple(tensor.name for tensor in conversion.tensors if tensor.name not in there)


def _directions(columns: int) -> Floats:
    """Give fixed random directions, for telling rows apart by a few numbers each."""
    signs = np.random.default_rng(0).integers(0, 2, size=(columns, _DIRECTIONS))
    return (2 * signs - 1).astype(np.float32)
