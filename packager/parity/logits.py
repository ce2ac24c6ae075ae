"""Distributions over the next token: how far an engine's are from the reference's.

Positions are those of the answer: the reference answers greedily, and every engine is then fed the same ids ("teacher
forcing"), so that one early difference does not make all later positions incomparable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packager.engines.engine import TokenLogprob

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_FLOOR = 1e-12  # a probability below this is rounding of a sum; keeps a logarithm finite


@dataclass(frozen=True, kw_only=True)
class Distance:
    """How far an engine is from the reference over the positions of some answers.

    Attributes:
        positions: How many distributions were compared.
        mean_kl: Mean of KL(reference || engine), nats.
        max_kl: The largest one, nats.
        top1: Share of positions where both have the same most likely token, 0 to 1.
        first_kl: Mean KL at the first position of each answer, nats: what a user meets first.
    """

    positions: int
    mean_kl: float
    max_kl: float
    top1: float
    first_kl: float


def kl_nats(reference: NDArray[np.float32], engine: NDArray[np.float32]) -> NDArray[np.float64]:
    """Give KL(reference || engine) for each row: `sum(p * (log p - log q))`, taken in float64.

    Args:
        reference: Log-probabilities, shape `(positions, vocabulary)`, nats.
        engine: The same positions from the engine, same shape. A vocabulary that llama.cpp padded is cut by the caller.

    Returns:
        Shape `(positions,)`, float64, nats; rounding below zero is cut to 0.
    """
    import numpy as np

    rows = [
        np.sum(np.exp(p, dtype=np.float64) * (p - q.astype(np.float64))) for p, q in zip(reference, engine, strict=True)
    ]
    return np.maximum(np.array(rows, dtype=np.float64), 0.0)


def distance(answers: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]]) -> Distance:
    """Compare several answers.

    Args:
        answers: For each, the reference's and the engine's log-probabilities, both of shape `(length, vocabulary)`.
    """
    import numpy as np

    kl = [kl_nats(reference, engine) for reference, engine in answers]
    same = [reference.argmax(axis=1) == engine.argmax(axis=1) for reference, engine in answers]
    every = np.concatenate(kl)
    return Distance(
        positions=len(every),
        mean_kl=float(every.mean()),
        max_kl=float(every.max()),
        top1=float(np.concatenate(same).mean()),
        first_kl=float(np.mean([row[0] for row in kl])),
    )


def lumped_kl(reference: NDArray[np.float32], served: Sequence[TokenLogprob], ids: Mapping[str, int]) -> float:
    """Give the KL that can be seen through a list of top tokens: every token not in the list is one category.

    Joining categories never raises KL (the data-processing inequality), so a limit that was measured on full
    distributions holds for this value as well.

    Args:
        reference: Log-probabilities of one position, shape `(vocabulary,)`, nats.
        served: The engine's most likely tokens, as text.
        ids: The id of each text that stands for exactly one token; other texts go to the category of the rest.

    Returns:
        KL(reference || engine) over the joined categories, nats, at least 0.

    Worked example:
        reference (0.7, 0.2, 0.1), served token 0 at 0.7: categories (0.7, 0.3) on both sides, KL 0.
    """
    import math

    known = {ids[token.text]: token.logprob for token in served if token.text in ids}
    expected = {token: float(reference[token]) for token in known}
    total = sum(math.exp(p) * (p - known[token]) for token, p in expected.items())
    rest = max(1.0 - sum(map(math.exp, expected.values())), 0.0)
    served_rest = max(1.0 - sum(map(math.exp, known.values())), _FLOOR)
    if rest > _FLOOR:
        total += rest * (math.log(rest) - math.log(served_rest))
    return max(total, 0.0)


def unique_texts(pieces: Sequence[bytes]) -> dict[str, int]:
    """Map each text that stands for exactly one token to its id; parts of a character are left out.

    Args:
        pieces: The bytes of every token, by id.
    """
    found: dict[str, int] = {}
    twice: set[str] = set()
    for token, piece in enumerate(pieces):
        try:
            text = piece.decode("utf-8")
        except UnicodeDecodeError:
            continue
        if text in found:
            twice.add(text)
        found[text] = token
    return {text: token for text, token in found.items() if text not in twice}
