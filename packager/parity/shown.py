"""A model's distributions as far as Ollama shows them: the likeliest tokens at a place, each by its text.

The text is what llama-server makes of a token when it prints it: nothing for a special token, and the whole characters that
a token begins with where it ends inside one (`completion_token_output::to_json`, tools/server/server-task.cpp of the llama.cpp
in llama-cpp-python 0.3.36). Several tokens can therefore have one text, and there are no ids.
"""

from __future__ import annotations

import codecs
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packager.engines.engine import TokenLogprob
from packager.parity.logits import lumped_kl

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Top = tuple[TokenLogprob, ...]
TOP_TOKENS = 20  # the most that Ollama shows


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One place of an answer, a reference against what Ollama shows.

    Attributes:
        kl: KL(reference || shown) over the joined categories, nats: at most the KL of the whole distributions.
        same_top: Whether the likeliest token has the same text.
        reference_next: The reference's log-probability of the token that follows, nats.
        shown_next: Ollama's; where it does not show that token, the most it can be: that of the least likely one it shows.
    """

    kl: float
    same_top: bool
    reference_next: float
    shown_next: float


class ShownVocabulary:
    """The vocabulary of a file, by the texts that llama-server prints.

    Args:
        spoken: The bytes of each token by its id, none for a special token.
    """

    def __init__(self, spoken: Sequence[bytes]) -> None:
        self._texts = tuple(shown_text(piece) for piece in spoken)
        self._ids: dict[str, list[int]] = defaultdict(list)
        for token, text in enumerate(self._texts):
            self._ids[text].append(token)

    def is_token(self, text: str, token: int) -> bool:
        """Say whether a text stands for this token and for no other."""
        return self._ids.get(text) == [token]

    def seen(self, reference: NDArray[np.float32], top: Top, follows: int) -> Seen:
        """Compare one place.

        Tokens of one text are told apart by their order alone: the likeliest shown with the likeliest of the reference,
        and so on. That never raises KL (rearrangement inequality), and neither does joining all tokens that are not shown.

        Args:
            reference: Log-probabilities, shape `(vocabulary,)`, nats; may be longer or shorter than the file's vocabulary.
            top: What Ollama shows there, the likeliest first; at least one.
            follows: Id of the token that really follows.
        """
        paired: dict[int, float] = {}
        times: Counter[str] = Counter()
        for token in top:
            ranked = self._ranked(token.text, reference)
            if times[token.text] < len(ranked):
                paired[ranked[times[token.text]]] = token.logprob
            times[token.text] += 1
        likeliest = int(reference[: len(self._texts)].argmax())
        return Seen(
            kl=lumped_kl(
                reference,
                [TokenLogprob(text=str(token), logprob=logprob) for token, logprob in paired.items()],
                {str(token): token for token in paired},
            ),
            same_top=self._texts[likeliest] == top[0].text,
            reference_next=float(reference[follows]),
            shown_next=paired.get(follows, top[-1].logprob),
        )

    def _ranked(self, text: str, reference: NDArray[np.float32]) -> list[int]:
        """Give the tokens of a text that the reference knows, its likeliest first."""
        known = [token for token in self._ids.get(text, ()) if token < len(reference)]
        return sorted(known, key=lambda token: -float(reference[token])) if len(known) > 1 else known


def shown_text(piece: bytes) -> str:
    r"""Give the whole characters of a token's bytes; bytes that are no UTF-8 become U+FFFD.

    Worked example:
        >>> shown_text(b" \xf0\x9f")
        ' '
    """
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return codecs.getincrementaldecoder("utf-8")(errors="replace").decode(piece)
