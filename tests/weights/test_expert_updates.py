"""Any rows of an update of experts, against peft's own formula for all of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from packager.artifacts import ExpertPair, TensorEntry
from packager.weights.expert_updates import expert_update

EXPERTS, RANK, OUTPUTS, INPUTS, SCALE = 3, 2, 6, 5, 0.5


class Reader:
    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.a = torch.randn(EXPERTS * RANK, INPUTS, generator=generator)
        self.b = torch.randn(OUTPUTS, RANK * EXPERTS, generator=generator)

    def read(self, entry: TensorEntry, first: int, end: int) -> torch.Tensor:
        return {"a": self.a, "b": self.b}[entry.name][first:end]


def pair(**changes: object) -> ExpertPair:
    a, b = (
        TensorEntry(name=name, dtype="F32", shape=shape, file=Path("f"), offset=0, size_bytes=0)
        for name, shape in (("a", (EXPERTS * RANK, INPUTS)), ("b", (OUTPUTS, RANK * EXPERTS)))
    )
    values = {"target": "t", "a": a, "b": b, "scale": SCALE, "experts": EXPERTS, "expert": None, **changes}
    return ExpertPair(**values)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def deltas() -> torch.Tensor:
    """peft 0.21, `ParamWrapper.get_delta_weight`: `(experts, out, in)`."""
    reader = Reader()
    a = reader.a.reshape(EXPERTS, -1, INPUTS)
    b = reader.b.reshape(OUTPUTS, -1, EXPERTS)
    return torch.einsum("o r e, e r i -> e o i", b, a) * SCALE


@pytest.mark.parametrize("rows", [(0, 18), (0, 6), (4, 9), (5, 17), (17, 18)], ids=str)
def test_rows_of_a_stack(rows: tuple[int, int], deltas: torch.Tensor) -> None:
    found = expert_update(pair(), Reader(), EXPERTS * OUTPUTS, *rows)
    torch.testing.assert_close(found, deltas.reshape(-1, INPUTS)[rows[0] : rows[1]])


@pytest.mark.parametrize("rows", [(0, 15), (4, 6), (3, 14)], ids=str)
def test_rows_of_a_stack_that_has_inputs_first(rows: tuple[int, int], deltas: torch.Tensor) -> None:
    found = expert_update(pair(transposed=True), Reader(), EXPERTS * INPUTS, *rows)
    torch.testing.assert_close(found, deltas.transpose(1, 2).reshape(-1, OUTPUTS)[rows[0] : rows[1]])


@pytest.mark.parametrize("expert", range(EXPERTS))
def test_rows_of_the_second_half_of_one_expert(expert: int, deltas: torch.Tensor) -> None:
    found = expert_update(pair(expert=expert, first_output=3), Reader(), 3, 1, 3)
    torch.testing.assert_close(found, deltas[expert, 4:6])
