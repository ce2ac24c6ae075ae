"""Prompt text: what an engine builds for each conversation against what the reference builds."""

from __future__ import annotations

from packager.artifacts import Conversation
from packager.engines.engine import NotSupported
from packager.evidence import Cell
from packager.parity.differences import text_difference
from packager.parity.matrix import cell, unanswered

Rendered = str | NotSupported


def compare_prompts(
    conversations: tuple[Conversation, ...],
    reference: tuple[Rendered, ...],
    engine: tuple[Rendered, ...],
    *,
    stripped_bos: str = "",
) -> tuple[Cell, ...]:
    """Compare prompts byte for byte.

    Args:
        conversations: What was rendered.
        reference: The reference's prompt for each.
        engine: The engine's prompt for each.
        stripped_bos: A beginning-of-sequence text that the engine takes off the prompt and adds again as a token. It is
            taken off the reference where the engine's text does not begin with it; whether it really comes back is seen
            in the token ids, not here.
    """
    return tuple(_compare(*row, stripped_bos) for row in zip(conversations, reference, engine, strict=True))


def _compare(conversation: Conversation, expected: Rendered, found: Rendered, bos: str) -> Cell:
    if isinstance(expected, NotSupported) or isinstance(found, NotSupported):
        return unanswered(conversation, expected, found)
    if bos and not found.startswith(bos):
        expected = expected.removeprefix(bos)
    return cell(conversation, text_difference(expected, found))
