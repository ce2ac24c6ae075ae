"""Greedy answers: how far two texts run together, and whether they part where the reference itself was undecided."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from packager.parity.differences import common_length

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_EXCERPT = 32
_NO_CHARACTER = "\ufffd"


@dataclass(frozen=True, kw_only=True)
class AnswerMatch:
    """One answer against the reference's.

    Attributes:
        conversation: Its id.
        equal: Whether the texts are the same.
        common_tokens: How many tokens they share from the start.
        reference_tokens: How many tokens the reference's answer has.
        margin_nats: Where they part: by how much the reference preferred its token to the runner-up. Small means a tie
            that rounding decides. 0 when the answers are equal.
        detail: Both texts from where they part; empty when they are equal.
    """

    conversation: str
    equal: bool
    common_tokens: int
    reference_tokens: int
    margin_nats: float
    detail: str


def compare_answer(
    conversation: str,
    *,
    reference_text: str,
    reference_ids: tuple[int, ...],
    reference_logprobs: NDArray[np.float32],
    text: str,
    ids: tuple[int, ...],
) -> AnswerMatch:
    """Compare an engine's greedy answer with the reference's.

    Args:
        conversation: Its id.
        reference_text: The reference's answer, without special tokens.
        reference_ids: Its token ids, the end-of-turn token included where there was one.
        reference_logprobs: The distribution of each of them, shape `(len(reference_ids), vocabulary)`, nats.
        text: The engine's answer.
        ids: That text by the reference's tokenizer.

    Bytes that are no UTF-8 are U+FFFD in one text and nothing in another, so they count for nothing.
    """
    equal = text.replace(_NO_CHARACTER, "") == reference_text.replace(_NO_CHARACTER, "")
    if equal:
        shared, margin, detail = len(reference_ids), 0.0, ""
    else:
        shared = common_length(reference_ids, ids)
        at = common_length(reference_text, text)
        margin = _margin(reference_logprobs[min(shared, len(reference_ids) - 1)])
        detail = f"reference …{reference_text[at : at + _EXCERPT]!r}, engine …{text[at : at + _EXCERPT]!r}"
    return AnswerMatch(
        conversation=conversation,
        equal=equal,
        common_tokens=shared,
        reference_tokens=len(reference_ids),
        margin_nats=margin,
        detail=detail,
    )


def _margin(row: NDArray[np.float32]) -> float:
    """Give the distance in nats between the two likeliest tokens of a row."""
    import numpy as np

    second, first = np.partition(row, -2)[-2:]
    return float(first - second)
