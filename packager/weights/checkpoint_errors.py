"""Every tensor of a merged checkpoint, in whatever float type it is stored, against base + adapter."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch

from packager.artifacts import Adapter, Checkpoint, TensorEntry
from packager.cores import usable_cores
from packager.evidence import TensorError
from packager.formats.fine_tuned import fine_tuned
from packager.formats.gguf import GgmlType
from packager.weights.block_errors import BlockErrors, Rows, block_errors
from packager.weights.merged import MergedTensors, matrix_shape, row_blocks, single_threaded_torch
from packager.weights.tensor_errors import TensorComparison
from packager.weights.tensor_faults import TensorFault, TensorParts, fault_text, tensor_error

_TYPES = {
    "F32": (GgmlType.F32, torch.float32),
    "F16": (GgmlType.F16, torch.float16),
    "BF16": (GgmlType.BF16, torch.bfloat16),
}


def checkpoint_errors(found: Checkpoint, base: Checkpoint, adapter: Adapter | None) -> TensorComparison:
    """Compare the tensors of a merged checkpoint; see `tensor_errors.MergedModel.compare`.

    Args:
        found: The merged checkpoint.
        base: What it was merged from.
        adapter: What was merged into it.

    Raises:
        InputInvalid: A value on either side is not finite, or a file ends early.
    """
    there = {entry.name: entry for entry in found.tensors}
    after, before = fine_tuned(base, adapter), {entry.name: entry.shape for entry in base.tensors}
    expected = {entry.name: entry for entry in after.tensors}
    common = [entry for entry in found.tensors if entry.name in expected]
    shaped = [entry for entry in common if entry.shape == expected[entry.name].shape]
    with (
        single_threaded_torch(),
        MergedTensors(base, adapter) as merged,
        MergedTensors(base, None) as plain,
        MergedTensors(found, None) as theirs,
    ):
        targets = adapter.targets if adapter is not None else frozenset[str]()
        changed = frozenset(name for name in targets if before.get(name) == expected[name].shape)
        wanted = [entry for entry in shaped if entry.dtype in _TYPES]
        compared = list(_compared(wanted, merged, plain, theirs, changed))
    return TensorComparison(
        tensors=tuple(error for error, _ in compared),
        faults=tuple(TensorFault(tensor=error.tensor, text=text) for error, text in compared if text),
        missing=tuple(name for name in expected if name not in there),
        unexpected=tuple(
            entry.name
            for entry in found.tensors
            if entry.name not in expected and not (after.ties_embeddings and entry.name == "lm_head.weight")
        ),
        reshaped=tuple(
            f"{entry.name} is {entry.shape}, not {expected[entry.name].shape}"
            for entry in common
            if entry not in shaped
        ),
        unread=tuple(f"{entry.name} ({entry.dtype})" for entry in shaped if entry.dtype not in _TYPES),
    )


def _compared(
    entries: list[TensorEntry],
    merged: MergedTensors,
    plain: MergedTensors,
    theirs: MergedTensors,
    changed: frozenset[str],
) -> Iterator[tuple[TensorError, str]]:
    with ThreadPoolExecutor(usable_cores()) as pool:
        for entry in entries:
            base = plain if entry.name in changed else None
            tasks = [
                _Task(entry=entry, merged=merged, plain=base, theirs=theirs, first=first, end=end)
                for first, end in row_blocks(*matrix_shape(entry.shape))
            ]
            found = TensorParts(
                name=entry.name,
                type=_TYPES[entry.dtype][0],
                rows=matrix_shape(entry.shape)[0],
                parts=tuple(pool.map(_Task.__call__, tasks)),
            )
            error = tensor_error(found)
            yield error, "" if error.worst_row is None else fault_text(found, error, heads=0)


@dataclass(frozen=True, kw_only=True)
class _Task:
    entry: TensorEntry
    merged: MergedTensors
    plain: MergedTensors | None
    theirs: MergedTensors
    first: int
    end: int

    def __call__(self) -> BlockErrors:
        name, first, end = self.entry.name, self.first, self.end
        with torch.inference_mode():
            merged = self.merged.rows(name, first, end).to(torch.float32)
            rounded = merged.to(_TYPES[self.entry.dtype][1]).to(torch.float32)
            found = self.theirs.rows(name, first, end).to(torch.float32)
            values = found.numpy()
            rows = Rows(first=first, merged=merged.numpy(), found=values, rounded=values, coarse=False)
            if not torch.equal(found, rounded):
                update = None if self.plain is None else (merged - self.plain.rows(name, first, end)).numpy()
                rows = replace(rows, rounded=rounded.numpy(), update=update)
            return block_errors(rows)
