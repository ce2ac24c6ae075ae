"""How many threads can work at once."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Give the number of processor cores this process may use; threads beyond them would wait for each other, spinning."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
