"""Choices that look random and are the same on every machine and every Python: the generator is sha256."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Choices:
    """An endless row of choices that depends on a text alone."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._count = 0

    def below(self, limit: int) -> int:
        """Give a number from 0 to before `limit`."""
        digest = hashlib.sha256(f"{self._key} {self._count}".encode()).digest()
        self._count += 1
        return int.from_bytes(digest[:8], "big") % limit

    def one(self, items: Sequence[T]) -> T:
        """Give one of the items."""
        return items[self.below(len(items))]
