"""Laws of the comparison of rows, on arrays whose errors are known by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from packager.formats.gguf import GgmlType
from packager.weights.block_errors import Fit, Rows, block_errors
from packager.weights.tensor_faults import TensorParts, fault_text, tensor_error, update_share

ROWS, COLUMNS = 16, 64
Floats = NDArray[np.float32]


def random(seed: int, scale: float = 1.0) -> Floats:
    return (np.random.default_rng(seed).normal(size=(ROWS, COLUMNS)) * scale).astype(np.float32)


def rounded(values: Floats, step: float = 0.05) -> Floats:
    return (np.round(values / step) * step).astype(np.float32)


def rows(found: Floats, *, coarse: bool = False, update: Floats | None = None) -> Rows:
    merged = random(0)
    return Rows(first=32, merged=merged, found=found, rounded=rounded(merged), coarse=coarse, update=update)


def parts(*each: Rows, kind: GgmlType = GgmlType.Q8_0) -> TensorParts:
    found = tuple(block_errors(one) for one in each)
    return TensorParts(name="blk.7.ffn_up.weight", type=kind, rows=ROWS * len(each), parts=found)


def test_sums_are_those_of_numpy() -> None:
    merged, found = random(0), random(1)
    errors = block_errors(rows(found))
    assert errors.merged == pytest.approx(np.linalg.norm(merged.astype("f8")) ** 2, rel=1e-5)
    assert errors.error == pytest.approx(np.linalg.norm(found.astype("f8") - merged) ** 2, rel=1e-5)
    assert errors.expected == pytest.approx(np.linalg.norm(rounded(merged).astype("f8") - merged) ** 2, rel=1e-5)


def test_equal_bytes_ask_for_nothing_more() -> None:
    same = rounded(random(0))
    errors = block_errors(replace(rows(same), found=same, rounded=same))
    assert errors.differing is None
    assert errors.error == errors.expected > 0


def test_figures_of_a_tensor_are_relative_and_named_by_block() -> None:
    error = tensor_error(parts(rows(random(0) * np.float32(1.01))))
    assert (error.tensor, error.type, error.layer) == ("blk.7.ffn_up.weight", "Q8_0", 7)
    assert error.relative_error == pytest.approx(0.01, rel=1e-3)
    assert error.expected_error == pytest.approx(0.05 / math.sqrt(12), rel=0.05)  # of a uniform step
    assert error.worst_row is None


@pytest.mark.parametrize("coarse", [False, True], ids=["fine", "coarse"])
def test_one_block_that_is_off_is_found_in_its_row(coarse: bool) -> None:
    found = rounded(random(0))
    found[5, 32:] = 0.0
    kind = GgmlType.Q4_K if coarse else GgmlType.Q8_0
    tensor = parts(rows(found, coarse=coarse), kind=kind)
    error = tensor_error(tensor)
    assert error.worst_row == 32 + 5
    assert fault_text(tensor, error, 0).startswith("row 37 of 16 is further off than rounding explains (relative error")


def test_a_clipped_outlier_is_no_fault_of_a_coarse_type_where_every_row_differs() -> None:
    """As an importance matrix leaves it: all rows differ, and a block has one value far away."""
    merged = random(0)
    found = rounded(merged + np.float32(0.02))
    found[5, 40] = merged[5, 40] - np.float32(1.5)
    assert tensor_error(parts(rows(found, coarse=True), kind=GgmlType.Q4_K)).worst_row is None
    assert tensor_error(parts(rows(found))).worst_row == 37
    alone = rounded(merged)
    alone[5, 40] = found[5, 40]
    assert tensor_error(parts(rows(alone, coarse=True), kind=GgmlType.Q4_K)).worst_row == 37, "all others are equal"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38], ids=["nan", "inf", "minus-inf", "huge"])
def test_what_has_no_square_is_off_and_has_a_json_form(value: float) -> None:
    found = rounded(random(0))
    found[3, 3] = value
    error = tensor_error(parts(rows(found)))
    assert error.worst_row == 35
    assert error.relative_error == np.finfo(np.float64).max


def test_a_zero_tensor_has_no_relative_error_unless_it_is_not_there() -> None:
    zero = np.zeros((ROWS, COLUMNS), np.float32)
    still = Rows(first=0, merged=zero, found=zero, rounded=zero, coarse=False)
    assert tensor_error(parts(still)).relative_error == 0.0
    moved = replace(still, found=zero + 1, rounded=zero)
    assert tensor_error(parts(moved)).relative_error == np.finfo(np.float64).max


@pytest.mark.parametrize("times", [0.0, 0.5, 2.0, 4.0])
@pytest.mark.parametrize("kind", [GgmlType.Q8_0, GgmlType.Q4_K], ids=["fine", "coarse"])
def test_the_fit_finds_how_often_the_update_is_there(times: float, kind: GgmlType) -> None:
    update = random(2, scale=0.02)  # below the step of rounding
    blocks = []
    for first in range(0, 20 * ROWS, ROWS):
        merged = random(first)
        found = rounded(merged + np.float32(times - 1.0) * update)
        coarse = kind is GgmlType.Q4_K
        made = Rows(first=first, merged=merged, found=found, rounded=rounded(merged), coarse=coarse, update=update)
        blocks.append(made)
    tensor = parts(*blocks, kind=kind)
    share = tensor.share
    assert share is not None
    assert share.times == pytest.approx(times, abs=0.2)
    said = fault_text(tensor, tensor_error(tensor), 0)
    assert said.startswith("the adapter's update is missing" if times == 0 else "the adapter's update is there ")


def test_an_update_that_is_there_once_or_not_at_all_fitted_is_no_fault() -> None:
    update = random(2, scale=0.02)
    merged = random(0)
    shifted = rounded(merged + np.float32(0.001))
    assert parts(rows(shifted, update=update)).share is None
    assert update_share(Fit(), coarse=False) is None


def test_what_a_merge_in_bfloat16_loses_is_no_fault() -> None:
    """Near 1 its step is 1/128: an update this small is lost."""
    update = np.random.default_rng(3).uniform(0.0005, 0.0035, (ROWS, COLUMNS)).astype(np.float32)
    merged = np.float32(1.0) + update
    found = torch.from_numpy(merged).bfloat16().float().numpy()
    assert (found == 1.0).all()
    lost = Rows(first=0, merged=merged, found=found, rounded=merged, coarse=False, update=update)
    assert tensor_error(parts(lost, kind=GgmlType.F32)).worst_row is None
    wrong = replace(lost, found=merged + update)
    assert tensor_error(parts(wrong, kind=GgmlType.F32)).worst_row is None, "nor can anything be said of its scale"
