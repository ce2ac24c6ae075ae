"""Progress as typed events, handed to one callable; `packager.console` is the only one that draws them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class StageStarted:
    """A stage began. `stage` is its verb (`merge`, `register`, ...), `title` one line for people."""

    stage: str
    title: str


@dataclass(frozen=True, kw_only=True)
class Advanced:
    """`done` of `total` units of a stage are finished; `unit` is `B`, `step`, `probe` or `row`. `detail` names the item."""

    stage: str
    done: int
    total: int
    unit: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Noted:
    """Something worth a line. A warning is something the user may want to act on."""

    stage: str
    text: str
    warning: bool = False


@dataclass(frozen=True, kw_only=True)
class StageFinished:
    """A stage ended. `reused`: its receipt was valid and nothing was done again."""

    stage: str
    seconds: float
    reused: bool = False


Event = StageStarted | Advanced | Noted | StageFinished
Emit = Callable[[Event], None]


def silent(event: Event) -> None:
    """Drop every event; for callers that show nothing."""
