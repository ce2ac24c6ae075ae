"""Progress of a comparison: one unit for each conversation put to one engine."""

from __future__ import annotations

from packager.events import Advanced, Emit

STAGE = "verify"


class Steps:
    """Counts conversations and reports each; the total is known before the first."""

    def __init__(self, total: int, emit: Emit) -> None:
        self._total = total
        self._emit = emit
        self._done = 0

    def done(self, detail: str) -> None:
        """Report one more conversation; `detail` says which, on which engine."""
        self.skip(1, detail)

    def skip(self, count: int, detail: str) -> None:
        """Report several at once: ones that an engine which is absent or failed will not be asked."""
        self._done = min(self._done + count, self._total)
        self._emit(Advanced(stage=STAGE, done=self._done, total=self._total, unit="probe", detail=detail))
