"""`BASE` or `BASE+ADAPTER`, one word that names a reference: a checkpoint's folder and, behind a plus, its adapter's.

Worked example, with the folders `./base` and `./my-lora`:
    >>> ReferenceName.parse("./base+./my-lora")
    ReferenceName(base=PosixPath('base'), adapter=PosixPath('my-lora'))

A plus may also be part of a folder's name: what exists as a whole is a base, and else the last plus counts that has an existing
path on both sides. Nothing is read here but the names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from packager.errors import InputInvalid

_SEPARATOR = "+"


def nowhere(text: str) -> bool:
    """Say that nothing but paths names a model."""
    return False


@dataclass(frozen=True, kw_only=True)
class ReferenceName:
    """The folders of a reference; `adapter` is None for a base alone."""

    base: Path
    adapter: Path | None = None

    @classmethod
    def parse(cls, text: str, *, is_elsewhere: Callable[[str], bool] = nowhere) -> ReferenceName:
        """Read the word as it was typed.

        Args:
            text: The word.
            is_elsewhere: Says of a text that is no path whether it names a model all the same, on a hub.

        Raises:
            InputInvalid: Neither the whole nor both sides of a plus exist; the message names the side that is missing.
        """

        def known(side: str) -> bool:
            return bool(side) and (Path(side).exists() or is_elsewhere(side))

        if known(text):
            return cls(base=Path(text))
        pluses = [index for index, character in enumerate(text) if character == _SEPARATOR]
        for plus in reversed(pluses):
            base, adapter = text[:plus], text[plus + 1 :]
            if known(base) and known(adapter):
                return cls(base=Path(base), adapter=Path(adapter))
        raise InputInvalid(_missing(text, pluses), hint="Give the base's folder, or both as BASE+ADAPTER.")


def _missing(text: str, pluses: list[int]) -> str:
    """Say what is not there; with one plus that is a side of it, with more the split is not known."""
    if len(pluses) != 1:
        return f"{text or repr(text)}: no such folder" + (", nor two at one of its '+'" if pluses else "")
    base, adapter = text.split(_SEPARATOR)
    missing = [side for side in (base, adapter) if not (side and Path(side).exists())]
    return f"{text}: no such folder, nor is there {' or '.join(side or 'anything' for side in missing)} beside its '+'"
