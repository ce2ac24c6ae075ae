"""How far rows of a file are from the merged rows they should hold, and whether rounding explains it.

Three versions of the same rows are compared: merged (what they should be), found (what the file's bytes stand for) and
rounded (the merged rows through llama.cpp's own kernel of the file's type). Where found and rounded have equal bytes, which is
so all through a file of ours, nothing more is asked. Where they differ, the file may still be a good one: quantized from a
bfloat16 or float16 intermediate, or with an importance matrix, which clips what matters little. So a block of 32 values
counts as off only when its error is some times what rounding of that block (or of its row on average) and to bfloat16 amounts
to. Measured on a 135M model, the largest such ratio and the least 2 % of those of blocks of random bytes:

| type | bfloat16 intermediate | importance matrix | random bytes |
|---|---|---|---|
| F16 | 1.3 | – | 1e5 |
| Q8_0 | 1.3 | 1.0 | 150 |
| Q6_K, without the four largest | 1.3 | 4.1 | 9.5 |
| Q5_0, without the four largest | 1.3 | 8.6 | 13 |
| Q4_K, without the four largest | 3.7 | 3.8 | 12 |

Below four bits a block of random bytes looks like rounding, and is not found this way.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_FINE_RATIO = 4.0
_COARSE_RATIO = 9.0  # with an importance matrix, without the _CLIPPED largest errors of a block
_CLIPPED = 4
_BLOCK = 32
_BFLOAT16 = 2.0**-9  # unit roundoff
_SMALLEST = 2.0**-24  # what float16 resolves at 0


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Some rows of one tensor.

    Attributes:
        first: The first of them, counted from the tensor's start.
        merged: What they should hold, shape `(rows, columns)`, float32.
        found: What the file holds, the same.
        rounded: `merged` through llama.cpp's kernel, the same; `found` itself where the bytes are equal.
        update: What the adapter adds to the base here, the same; None without one, and where the bytes are equal.
        coarse: Whether the type has fewer than eight bits.
        probe: Directions that rows are told apart by, shape `(columns, k)`; None where their order is not asked about.
    """

    first: int
    merged: Floats
    found: Floats
    rounded: Floats
    coarse: bool
    update: Floats | None = None
    probe: Floats | None = None


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Sums for fitting `found = rounded + (c - 1) * update`, over the rows that differ.

    Attributes:
        elements: How many values.
        update: ||update||^2.
        along: <found - rounded, update>.
        merged_along: <found - merged, update>.
        lost_along: <merged in bfloat16 - merged, update>: what a merge saved in bfloat16 loses of a small update.
        apart: ||found - rounded||^2.
        error: ||found - merged||^2.
        allowed: ||rounded - merged||^2 and what rounding to bfloat16 adds to it.
        found: ||found||^2.
        merged: ||merged||^2.
    """

    elements: int = 0
    update: float = 0.0
    along: float = 0.0
    merged_along: float = 0.0
    lost_along: float = 0.0
    apart: float = 0.0
    error: float = 0.0
    allowed: float = 0.0
    found: float = 0.0
    merged: float = 0.0

    def __add__(self, other: Fit) -> Fit:
        return Fit(
            **{each.name: getattr(self, each.name) + getattr(other, each.name) for each in dataclasses.fields(Fit)}
        )


@dataclass(frozen=True, kw_only=True)
class Differing:
    """Rows whose bytes are not those of the rounded ones; arrays have one item for each row.

    Attributes:
        first: The first of them, counted from the tensor's start.
        suspect: Whether a row holds a block that plain rounding does not explain.
        off: Whether it holds one that rounding with an importance matrix does not explain either.
        apart: ||found - rounded||, infinite where a value is not finite.
        fit: For what the adapter's update has to do with it.
        sketches: Found and merged rows along `probe`, each `(rows, k)`; None where it was not asked for.
    """

    first: int
    suspect: NDArray[np.bool_]
    off: NDArray[np.bool_]
    apart: NDArray[np.float64]
    fit: Fit
    sketches: tuple[Floats, Floats] | None


@dataclass(frozen=True, kw_only=True)
class BlockErrors:
    """What some rows of a tensor amount to.

    Attributes:
        merged: ||merged||^2; all sums are in float64.
        error: ||found - merged||^2; infinite where a value is not finite.
        expected: ||rounded - merged||^2.
        differing: None where found and rounded have the same bytes.
    """

    merged: float
    error: float
    expected: float
    differing: Differing | None = None


def block_errors(rows: Rows) -> BlockErrors:
    """Compare some rows; values that overflow or are not numbers give infinite errors, not warnings."""
    with np.errstate(over="ignore", invalid="ignore"):
        if rows.found is rows.rounded:
            error = float(_row_sums(rows.found - rows.merged).sum())
            return BlockErrors(merged=float(_row_sums(rows.merged).sum()), error=error, expected=error)
        return _different(rows)


def _different(rows: Rows) -> BlockErrors:
    error, expected = _block_sums(rows.found - rows.merged), _block_sums(rows.rounded - rows.merged)
    size = _block_sums(rows.merged)
    allowed = np.maximum(expected, expected.mean(axis=1, keepdims=True)) + _rounding(size, rows.merged)
    apart = rows.found - rows.rounded
    total = float(error.sum())
    suspects = ~(error <= _FINE_RATIO**2 * allowed)  # what is not finite never is explained
    differing = Differing(
        first=rows.first,
        suspect=_any(suspects),
        off=_any(_unexplained(rows, suspects, allowed)),
        apart=np.sqrt(np.nan_to_num(_row_sums(apart), nan=np.inf, posinf=np.inf)),
        fit=_fit(rows, apart, total, float(allowed.sum())),
        sketches=None if rows.probe is None else (rows.found @ rows.probe, rows.merged @ rows.probe),
    )
    return BlockErrors(
        merged=float(size.sum()),
        error=total if np.isfinite(total) else float("inf"),
        expected=float(expected.sum()),
        differing=differing,
    )


def _fit(rows: Rows, apart: Floats, error: float, allowed: float) -> Fit:
    if rows.update is None or not np.isfinite(error):
        return Fit()
    return Fit(
        elements=apart.size,
        update=float(_row_sums(rows.update).sum()),
        along=_product(apart, rows.update),
        merged_along=_product(rows.found - rows.merged, rows.update),
        lost_along=_product(_in_bfloat16(rows.merged) - rows.merged, rows.update),
        apart=float(_row_sums(apart).sum()),
        error=error,
        allowed=allowed,
        found=float(_row_sums(rows.found).sum()),
        merged=float(_row_sums(rows.merged).sum()),
    )


def _unexplained(rows: Rows, suspects: NDArray[np.bool_], allowed: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Give the suspect blocks that an importance matrix does not explain, which has no effect on types of eight bits."""
    if not rows.coarse:
        return suspects
    row, block = np.nonzero(suspects)
    squares = np.sort(((rows.found - rows.merged) ** 2).reshape(len(suspects), -1, _BLOCK)[row, block], axis=1)
    found = np.zeros_like(suspects)
    found[row, block] = ~(squares[:, :-_CLIPPED].sum(axis=1) <= _COARSE_RATIO**2 * allowed[row, block])
    return found


def _rounding(size: NDArray[np.float64], merged: Floats) -> NDArray[np.float64]:
    """Give what rounding to bfloat16 or float16 may add to each block's squared error."""
    rounding: NDArray[np.float64] = size * _BFLOAT16**2 + merged.shape[1] / size.shape[1] * _SMALLEST**2
    return rounding


def _in_bfloat16(values: Floats) -> Floats:
    """Round to nearest even, as torch does."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    result: Floats = rounded.view(np.float32)
    return result


def _any(blocks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(blocks.any(axis=1))


def _row_sums(values: Floats) -> NDArray[np.float64]:
    sums: NDArray[np.float64] = np.einsum("ij,ij->i", values, values).astype(np.float64)
    return sums


def _block_sums(values: Floats) -> NDArray[np.float64]:
    """Give the squared norm of each block of 32 values; a row that 32 does not divide is one block."""
    count, columns = values.shape
    width = _BLOCK if columns % _BLOCK == 0 else columns
    blocks = values.reshape(count, columns // width, width)
    sums: NDArray[np.float64] = np.einsum("ijk,ijk->ij", blocks, blocks).astype(np.float64)
    return sums


def _product(one: Floats, other: Floats) -> float:
    return float(np.einsum("ij,ij->i", one, other).astype(np.float64).sum())
