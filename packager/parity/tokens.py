"""Token ids: what is really fed to the model, which equal text does not settle.

Two engines can agree on every character of a prompt and still differ: a beginning-of-sequence token lost or doubled, special
tokens read as text, a tokenizer that normalises Unicode and one that does not.
"""

from __future__ import annotations

from collections.abc import Callable

from packager.artifacts import Conversation
from packager.engines.engine import NotSupported
from packager.evidence import Cell
from packager.parity.differences import ids_difference
from packager.parity.matrix import cell, unanswered

Ids = tuple[int, ...] | NotSupported


def compare_tokens(
    conversations: tuple[Conversation, ...],
    reference: tuple[Ids, ...],
    engine: tuple[Ids, ...],
    *,
    piece: Callable[[int], str],
    counts: tuple[int | NotSupported, ...] | None = None,
) -> tuple[Cell, ...]:
    """Compare token ids, and where the engine counts what it evaluated, that count too.

    Args:
        conversations: What was tokenized.
        reference: The reference's ids for each.
        engine: The engine's ids for each.
        piece: Gives a token's text, for the first difference.
        counts: The number of prompt tokens the engine says it evaluated; None when it is not asked. The count is
            independent of the ids: it shows a lost or doubled token that a rendered text hides.
    """
    counted: tuple[int | NotSupported | None, ...] = counts if counts is not None else (None,) * len(conversations)
    rows = zip(conversations, reference, engine, counted, strict=True)
    return tuple(_compare(*row, piece) for row in rows)


def _compare(
    conversation: Conversation,
    expected: Ids,
    found: Ids,
    count: int | NotSupported | None,
    piece: Callable[[int], str],
) -> Cell:
    if isinstance(expected, NotSupported) or isinstance(found, NotSupported):
        return unanswered(conversation, expected, found)
    difference = ids_difference(expected, found, piece)
    if not difference and isinstance(count, int) and count != len(expected):
        difference = f"reference {len(expected)} tokens, engine evaluated {count}"
    if not difference and isinstance(count, NotSupported):
        return unanswered(conversation, expected, count)
    return cell(conversation, difference)
