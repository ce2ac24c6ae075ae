"""Where two prompts part, in one line that a person can act on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_BEFORE, _AFTER = 16, 24
_NAMES = ("reference", "engine")


def text_difference(expected: str, found: str, names: tuple[str, str] = _NAMES) -> str:
    """Give the first place where two texts differ, with what surrounds it in both; empty when they are equal.

    `names` says what to call the two sides.

    Worked example:
        >>> text_difference("<s>Hi", "Hi")
        "character 0: reference '<s>Hi', engine 'Hi'"
    """
    if expected == found:
        return ""
    at = common_length(expected, found)
    begin = max(0, at - _BEFORE)
    sides = (f"{name} {text[begin : at + _AFTER]!r}" for name, text in zip(names, (expected, found), strict=True))
    return f"character {at}: {', '.join(sides)}"


def ids_difference(
    expected: Sequence[int], found: Sequence[int], piece: Callable[[int], str], names: tuple[str, str] = _NAMES
) -> str:
    """Give the first position where two lists of token ids differ; empty when they are equal.

    Args:
        expected: The reference's ids.
        found: The engine's ids.
        piece: Gives a token's text.
        names: What to call the two sides.
    """
    if tuple(expected) == tuple(found):
        return ""
    at = common_length(expected, found)

    def side(ids: Sequence[int]) -> str:
        return f"{ids[at]} {piece(ids[at])!r}" if at < len(ids) else "the end"

    return f"token {at}: {names[0]} {side(expected)}, {names[1]} {side(found)}"


def common_length(one: Sequence[object], other: Sequence[object]) -> int:
    """Count the items that two sequences share from the start."""
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return index
    return min(len(one), len(other))
