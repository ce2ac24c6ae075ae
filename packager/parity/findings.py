"""What comparing one file on one engine gives: lines of the verdict, and the evidence behind them."""

from __future__ import annotations

from dataclasses import dataclass

from packager.artifacts import Check
from packager.evidence import AnswerPositions, AnswerText, CharacterClass, MatrixRow, PartDistance


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Checks, and what they were made from; see `packager.evidence` for the fields."""

    checks: tuple[Check, ...]
    matrix: tuple[MatrixRow, ...] = ()
    tokenizer: tuple[CharacterClass, ...] = ()
    distances: tuple[PartDistance, ...] = ()
    positions: tuple[AnswerPositions, ...] = ()
    answers: tuple[AnswerText, ...] = ()

    def __add__(self, other: Findings) -> Findings:
        """Put the findings of another engine or file behind these; of two tokenizers, the one that differs more stays."""
        return Findings(
            checks=(*self.checks, *other.checks),
            matrix=(*self.matrix, *other.matrix),
            tokenizer=max(self.tokenizer, other.tokenizer, key=_weight),
            distances=(*self.distances, *other.distances),
            positions=(*self.positions, *other.positions),
            answers=(*self.answers, *other.answers),
        )


def _weight(classes: tuple[CharacterClass, ...]) -> tuple[int, int]:
    return sum(found.differing for found in classes), len(classes)
