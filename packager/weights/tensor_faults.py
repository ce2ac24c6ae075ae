"""What the errors of one tensor mean: whether rounding explains them, and what happened to it if not.

The adapter's update is small beside the rounding of a small quant, so that a tensor that lacks it is hardly further away. But
rounding does not point along the update: a least squares fit over the whole tensor finds how much of it is there, to a few
percent even in q4_k. A merge that was saved in bfloat16 has lost some of it (8 % where it is smallest in the demo's model),
which is no fault of the file.
"""

from __future__ import annotations

import math
import re
import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from packager.evidence import TensorError
from packager.formats.gguf import GgmlType
from packager.weights.block_errors import BlockErrors, Differing, Fit
from packager.weights.kernels import is_coarse

_FINE_TOLERANCE = 0.05  # of the update, and what the fit and a merge in bfloat16 may be off by
_COARSE_TOLERANCE = (
    0.4  # an importance matrix, and a base that was quantized before: 0.31 in the demo's model, else 0.06
)
_STANDARD_ERRORS = 6.0
_TIMES_LOST = 2.0
_EXPLAINED = 4.0  # squared error left by an explanation, of what rounding alone leaves
_SAME_ROWS = 0.25  # squared distance of sketches, of the rows' own size; unrelated rows have 2


@dataclass(frozen=True, kw_only=True)
class TensorFault:
    """A tensor that does not hold what it should: its name, and what became of it, in words."""

    tensor: str
    text: str


@dataclass(frozen=True, kw_only=True)
class TensorParts:
    """What all rows of a tensor amount to, in order."""

    name: str
    type: GgmlType
    rows: int
    parts: tuple[BlockErrors, ...]

    @property
    def differing(self) -> tuple[Differing, ...]:
        """The parts that are not rounded merged rows byte by byte."""
        return tuple(part.differing for part in self.parts if part.differing is not None)

    @property
    def off(self) -> tuple[NDArray[np.bool_], ...]:
        """Which rows of each differing part rounding does not explain.

        An importance matrix changes every row. So where most have the very bytes of plain rounding, it explains nothing.
        """
        differing = sum(int((part.apart > 0).sum()) for part in self.differing)
        plain = 2 * differing < self.rows
        return tuple(part.suspect if plain else part.off for part in self.differing)

    @property
    def fit(self) -> Fit:
        """The sums over all of them."""
        return sum((part.fit for part in self.differing), Fit())

    @property
    def share(self) -> Share | None:
        """See `update_share`."""
        return update_share(self.fit, coarse=is_coarse(self.type))


def tensor_error(found: TensorParts) -> TensorError:
    """Give a tensor's figures; it has a `worst_row` where rounding does not explain it."""
    size = sum(part.merged for part in found.parts)
    block = re.search(r"\b(?:blk|layers)\.(\d+)\.", found.name)
    return TensorError(
        tensor=found.name,
        type=found.type.name,
        layer=int(block[1]) if block else None,
        relative_error=_relative(sum(part.error for part in found.parts), size),
        expected_error=_relative(sum(part.expected for part in found.parts), size),
        worst_row=_worst_row(found),
    )


def fault_text(found: TensorParts, error: TensorError, heads: int) -> str:
    """Say what happened to a tensor that has a `worst_row`.

    Args:
        found: What its rows amount to.
        error: Its figures.
        heads: How many heads its rows are of; 0 for what is no query or key projection.
    """
    share = found.share
    if share is not None and _is_explained(found.fit, share.times):
        if abs(share.times) <= max(2 * _FINE_TOLERANCE, share.tolerance):
            return "the adapter's update is missing"
        return f"the adapter's update is there {share.times:.2f} times"
    off = sum(int(part.sum()) for part in found.off)
    which = f"row {error.worst_row} of {found.rows} is" if off == 1 else f"{off} of {found.rows} rows are"
    most = f", most of all row {error.worst_row}" if off > 1 else ""
    figures = f"relative error {error.relative_error:.3g}, {error.expected_error:.3g} by rounding"
    return _row_order(found, heads) or f"{which} further off than rounding explains{most} ({figures})"


@dataclass(frozen=True, kw_only=True)
class Share:
    """How many times the adapter's update is in a tensor, and how well that is known."""

    times: float
    tolerance: float


def update_share(fit: Fit, *, coarse: bool) -> Share | None:
    """Give how many times the update is there; None where that is once, as far as rounding lets one tell."""
    if fit.update == 0.0:
        return None
    excess = fit.along / fit.update
    left = max(0.0, fit.apart - excess**2 * fit.update) / fit.elements
    lost = abs(fit.lost_along) / fit.update
    least = _COARSE_TOLERANCE if coarse else _FINE_TOLERANCE
    tolerance = max(least, _STANDARD_ERRORS * math.sqrt(left / fit.update), _TIMES_LOST * lost)
    return Share(times=1.0 + excess, tolerance=tolerance) if abs(excess) > tolerance else None


def _is_explained(fit: Fit, times: float) -> bool:
    excess = times - 1.0
    left = fit.error - 2 * excess * fit.merged_along + excess**2 * fit.update
    larger = max(1.0, fit.found / fit.merged) if fit.merged else 1.0  # and so is what its rounding leaves
    return left <= _EXPLAINED * fit.allowed * larger


def _worst_row(found: TensorParts) -> int | None:
    """Give the row where found and rounded are furthest apart: of those that are off, or of all where the fit is."""
    some_off = any(part.any() for part in found.off)
    if not some_off and found.share is None:
        return None
    worst = (-1.0, 0)
    for part, off in zip(found.differing, found.off, strict=True):
        distance = np.where(off, part.apart, -1.0) if some_off else part.apart
        row = int(distance.argmax())
        worst = max(worst, (float(distance[row]), -part.first - row))
    return -worst[1]


def _row_order(found: TensorParts, heads: int) -> str:
    """Say so where the rows of a query or key projection stand in the order of the other rotary layout."""
    sketches = [part.sketches for part in found.differing if part.sketches is not None]
    if not heads or len(sketches) < len(found.parts) or found.rows % (2 * heads):
        return ""
    there, merged = (np.concatenate(side) for side in zip(*sketches, strict=True))
    order = np.arange(found.rows).reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)
    size = float((merged**2).sum())
    for permuted, text in ((np.argsort(order), "are not permuted"), (order, "are permuted once too often")):
        if float(((there - merged[permuted]) ** 2).sum()) < _SAME_ROWS * size:
            return f"its rows {text} for llama.cpp's rotary embedding"
    return ""


def _relative(square: float, size: float) -> float:
    """Give a relative error from squared norms, in four digits; the largest number there is where it is infinite."""
    if square == 0.0:
        return 0.0
    if size == 0.0 or not math.isfinite(square):
        return sys.float_info.max
    return float(f"{math.sqrt(square / size):.4g}")
