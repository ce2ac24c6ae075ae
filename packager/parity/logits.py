"""Distributions over the next token: how far an engine's are from the reference's.

Both sides are fed the same ids ("teacher forcing"), so that one early difference does not make all later positions
incomparable. Positions that predict the answer and those that predict the rest of the prompt are kept apart: the model was
trained for the first, and the second say more about rounding, because there are more of them and the model is less sure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packager.engines.engine import TokenLogprob
from packager.evidence import Part, PartDistance

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NOT_A_NUMBER = 1.79769e308  # the largest float, to six digits: JSON has neither NaN nor infinity
_FLOOR = 1e-12  # a probability below this is rounding of a sum; keeps a logarithm finite


@dataclass(frozen=True, kw_only=True)
class Scores:
    """An engine against the reference at every position of some stretch of tokens; all of shape `(positions,)`.

    Attributes:
        kl: KL(reference || engine), float64, nats.
        same_top: Whether both have the same likeliest token.
        reference_next: The reference's log-probability of the token that follows, float64, nats.
        engine_next: The engine's.
    """

    kl: NDArray[np.float64]
    same_top: NDArray[np.bool_]
    reference_next: NDArray[np.float64]
    engine_next: NDArray[np.float64]

    def between(self, first: int, end: int | None) -> Scores:
        """Give the positions from `first` to before `end`; None is the last."""
        return Scores(
            kl=self.kl[first:end],
            same_top=self.same_top[first:end],
            reference_next=self.reference_next[first:end],
            engine_next=self.engine_next[first:end],
        )


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


def scores(reference: NDArray[np.float32], engine: NDArray[np.float32], following: Sequence[int]) -> Scores:
    """Compare an engine with the reference position by position.

    Args:
        reference: Log-probabilities, shape `(positions, vocabulary)`, nats.
        engine: The same positions, shape `(positions, vocabulary)`; of two vocabularies the narrower one counts, because
            the rows that one side padded are never trained and have no probability to speak of.
        following: The id that follows each position.
    """
    import numpy as np

    width = min(reference.shape[1], engine.shape[1])
    ours, theirs = reference[:, :width], engine[:, :width]
    at = np.arange(len(following)), np.array(following, dtype=np.int64)
    return Scores(
        kl=kl_nats(ours, theirs),
        same_top=ours.argmax(axis=1) == theirs.argmax(axis=1),
        reference_next=ours[at].astype(np.float64),
        engine_next=theirs[at].astype(np.float64),
    )


def joined(parts: Sequence[Scores]) -> Scores:
    """Put several stretches behind one another; at least one."""
    import numpy as np

    return Scores(
        kl=np.concatenate([part.kl for part in parts]),
        same_top=np.concatenate([part.same_top for part in parts]),
        reference_next=np.concatenate([part.reference_next for part in parts]),
        engine_next=np.concatenate([part.engine_next for part in parts]),
    )


def part_distance(found: Scores, *, subject: str, engine: str, part: Part) -> PartDistance:
    """Sum positions up; every figure is rounded to six significant digits.

    A model that computes NaN is infinitely far away; JSON has neither, so the value is then the largest number there is.

    Source: the measures of llama.cpp's `llama-perplexity --kl-divergence` (tools/perplexity/perplexity.cpp), but with the
    natural distributions of both sides, where that program keeps 16 bits of each of the reference's.
    """
    import numpy as np

    far = np.sort(np.where(np.isnan(found.kl), np.inf, found.kl))
    change = np.exp(found.engine_next) - np.exp(found.reference_next)
    return PartDistance(
        subject=subject,
        engine=engine,
        part=part,
        positions=len(far),
        mean_kl=finite(float(far.mean())),
        p99_kl=finite(float(far[max(0, math.ceil(0.99 * len(far)) - 1)])),
        max_kl=finite(float(far[-1])),
        top1=finite(float(found.same_top.mean())),
        rms_probability=finite(math.sqrt(float(np.mean(change**2)))),
        perplexity_ratio=finite(_exp(float(np.mean(found.reference_next - found.engine_next)))),
    )


def finite(value: float) -> float:
    """Give a figure to six significant digits, more than a repeated run agrees on; NaN and infinity as the largest number."""
    return float(f"{value:.6g}") if math.isfinite(value) else NOT_A_NUMBER


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


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
