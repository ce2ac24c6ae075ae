"""Progress of a comparison: one unit for each conversation put to one engine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from packager.events import Advanced, Emit

STAGE = "verify"


class Steps:
    """Counts conversations and reports each under a stage's name; the total is known before the first."""

    def __init__(self, total: int, emit: Emit, stage: str = STAGE) -> None:
        self._total = total
        self._emit = emit
        self._stage = stage
        self._done = 0

    def done(self, detail: str) -> None:
        """Report one more conversation; `detail` says which, on which engine."""
        self._reach(self._done + 1, detail)

    @contextlib.contextmanager
    def section(self, count: int, detail: str) -> Iterator[None]:
        """Account for `count` conversations: those an absent or failing engine was not asked are reported at the end."""
        end = self._done + count
        yield
        if self._done < end:
            self._reach(end, detail)

    def _reach(self, done: int, detail: str) -> None:
        self._done = done
        self._emit(Advanced(stage=self._stage, done=done, total=self._total, unit="probe", detail=detail))
