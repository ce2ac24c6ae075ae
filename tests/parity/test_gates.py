from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import pytest

from packager import codec
from packager.artifacts import Quant
from packager.errors import Usage
from packager.parity.gates import Gates, QuantGates, gates_from
from packager.quants import DEFAULT_QUANTS

MEASURED = [quant for quant in Quant if Gates().of(quant) != QuantGates()]


def test_without_changes_the_measured_limits_hold() -> None:
    assert gates_from(()) == Gates()


@pytest.mark.parametrize("quant", [pytest.param(quant, id=quant.value) for quant in MEASURED])
def test_every_measured_quant_has_limits_that_mean_something(quant: Quant) -> None:
    gates = Gates().of(quant)
    assert 0 < (gates.mean_kl or 0) < 1
    assert 0 < (gates.first_kl or 0) < 1.5
    assert 0.5 < (gates.top1 or 0) <= 1
    assert (gates.answer_margin or 0) > 0


def test_a_quant_that_was_not_measured_has_no_limit_at_all() -> None:
    for quant in set(Quant) - set(MEASURED):
        assert set(dataclasses.astuple(Gates().of(quant))) == {None}


def test_a_smaller_quant_is_never_held_to_a_tighter_limit() -> None:
    rows = [dataclasses.astuple(Gates().of(quant)) for quant in DEFAULT_QUANTS]
    for (kl, first, top1, margin, *_), (kl2, first2, top1_2, margin2, *_) in pairwise(rows):
        assert kl <= kl2
        assert first <= first2
        assert top1 >= top1_2
        assert margin <= margin2


def test_one_limit_is_changed_and_no_other() -> None:
    gates = gates_from((("q4_k_m.mean_kl", 0.5), ("q4_k_m.top1", 0.9), ("f16.answer_margin", 0.0)))
    assert (gates.q4_k_m.mean_kl, gates.q4_k_m.top1, gates.f16.answer_margin) == (0.5, 0.9, 0.0)
    assert gates.q4_k_m.first_kl == Gates().q4_k_m.first_kl
    assert gates.q8_0 == Gates().q8_0


def test_the_last_change_wins() -> None:
    assert gates_from((("f16.top1", 0.5), ("f16.top1", 0.6))).f16.top1 == 0.6


@pytest.mark.parametrize(
    ("name", "limit", "message"),
    [
        pytest.param("q5_k_x.mean_kl", 0.1, "no such threshold", id="a quant that no build writes"),
        pytest.param("q4_k_m.kl", 0.1, "no such threshold", id="an unknown measure"),
        pytest.param("mean_kl", 0.1, "no such threshold", id="no quant"),
        pytest.param("f16.mean_kl", -0.1, "not a limit", id="negative"),
        pytest.param("f16.mean_kl", math.nan, "not a limit", id="not a number"),
        pytest.param("f16.mean_kl", math.inf, "not a limit", id="infinite"),
        pytest.param("f16.top1", 97.0, "not a limit", id="a percentage"),
    ],
)
def test_a_change_that_makes_no_sense_is_refused(name: str, limit: float, message: str) -> None:
    with pytest.raises(Usage, match=message) as caught:
        gates_from(((name, limit),))
    assert name in caught.value.message
    assert caught.value.hint


def test_limits_have_a_json_form() -> None:
    gates = gates_from((("q8_0.first_kl", 0.25),))
    assert codec.decode(Gates, codec.encode(gates)) == gates
