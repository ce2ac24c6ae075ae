"""What every hub can do, whatever it speaks."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from packager.events import Emit
from packager.sources.hub_files import Listing, RemoteFile
from packager.sources.hub_name import HubName
from packager.sources.hub_place import Place
from packager.sources.hub_snapshot import Snapshot
from packager.sources.hub_wire import Wire


class Hub(Protocol):
    """One hub, with its endpoint, its token and its cache."""

    endpoint: str
    offline: bool

    def wire(self, name: HubName, emit: Emit) -> Wire:
        """Give a client of it."""

    def listing(self, name: HubName, wire: Wire) -> Listing:
        """Give commit and files of a revision."""

    def place(self, name: HubName, commit: str) -> Place:
        """Give the model's place in the hub's cache."""

    def remember(self, name: HubName, commit: str) -> None:
        """Write into the hub's cache where the revision is now."""

    def snapshots(self, name: HubName) -> tuple[Snapshot, ...]:
        """Give what the hub's cache holds of a revision, the best first."""

    def copy_of(self, name: HubName, file: RemoteFile) -> Path | None:
        """Give a file of the hub's cache that may have the bytes."""
