"""Parts of computed tensors that are kept for a while, because making them again for every block would cost too much."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import torch

from packager.weights.memory import CACHE_BYTES


@dataclass(eq=False)
class _Entry:
    lock: threading.Lock = field(default_factory=threading.Lock)
    value: torch.Tensor | None = None


class SlabCache:
    """The tensors asked for last, of a bounded number of bytes, shared by all threads.

    A tensor is computed once by the thread that asks first, and again if it is asked for after others took its place.

    Args:
        limit_bytes: What may be kept; what alone is larger is kept alone.
    """

    def __init__(self, limit_bytes: int = CACHE_BYTES) -> None:
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()

    def get(self, key: Hashable, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Give the tensor of a key; what `compute` raises is raised to whoever asked for it."""
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
        with entry.lock:
            if entry.value is None:
                entry.value = compute()
            value = entry.value
        with self._lock:
            self._shrink(entry)
        return value

    def _shrink(self, newest: _Entry) -> None:
        kept = sum(entry.value.nbytes for entry in self._entries.values() if entry.value is not None)
        for key, entry in list(self._entries.items()):
            if kept <= self._limit:
                return
            if entry is not newest and entry.value is not None:
                kept -= entry.value.nbytes
                del self._entries[key]
