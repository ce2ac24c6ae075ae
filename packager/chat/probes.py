"""The conversations that templates are proved on, by group."""

from __future__ import annotations

from packager import catalog
from packager.artifacts import Conversation

CORE = "CORE"
EXT = "EXT"


def load_probes() -> tuple[Conversation, ...]:
    """Give every probe conversation, CORE before EXT, each group in its written order."""
    probes = catalog.probe_conversations()
    return tuple(sorted(probes, key=lambda probe: (CORE, EXT).index(probe.group)))


def core_probes() -> tuple[Conversation, ...]:
    """Give the conversations that every engine must build exactly as the reference does."""
    return tuple(probe for probe in load_probes() if probe.group == CORE)
