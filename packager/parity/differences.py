"""Where two prompts part, in one line that a person can act on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_BEFORE, _AFTER = 16, 24


def text_difference(expected: str, found: str) -> str:
    """Give the first place where two texts differ, with what surrounds it in both; empty when they are equal.

    Worked example:
        >>> text_difference("<s>Hi", "Hi")
        "character 0: reference '<s>Hi', engine 'Hi'"
    """
    if expected == found:
        return ""
    at = common_length(expected, found)
    begin = max(0, at - _BEFORE)
    return f"character {at}: reference {expected[begin : at + _AFTER]!r}, engine {found[begin : at + _AFTER]!r}"


def ids_difference(expected: Sequence[int], found: Sequence[int], piece: Callable[[int], str]) -> str:
    """Give the first position where two lists of token ids differ; empty when they are equal.

    Args:
        expected: The reference's ids.
        found: The engine's ids.
        piece: Gives a token's text.
    """
    if tuple(expected) == tuple(found):
        return ""
    at = common_length(expected, found)

    def side(ids: Sequence[int]) -> str:
        return f"{ids[at]} {piece(ids[at])!r}" if at < len(ids) else "the end"

    return f"token {at}: reference {side(expected)}, engine {side(found)}"


def common_length(one: Sequence[object], other: Sequence[object]) -> int:
    """Count the items that two sequences share from the start."""
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return index
    return min(len(one), len(other))
