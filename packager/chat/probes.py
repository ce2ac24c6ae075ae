"""The conversations that templates are proved on, by group."""

from __future__ import annotations

from packager import catalog
from packager.artifacts import Conversation

CORE, EXT, TOOLS, THINK = "CORE", "EXT", "TOOLS", "THINK"
_TEXT = (CORE, EXT)


def load_probes() -> tuple[Conversation, ...]:
    """Give the conversations of text, CORE before EXT, each group in its written order.

    They decide which template a model was trained with, and forms for engines that know nothing but text are learned on them.
    """
    return tuple(probe for probe in every_probe() if probe.group in _TEXT)


def every_probe() -> tuple[Conversation, ...]:
    """Give all conversations: those of `load_probes`, then TOOLS and THINK."""
    probes = catalog.probe_conversations()
    return tuple(sorted(probes, key=lambda probe: (*_TEXT, TOOLS, THINK).index(probe.group)))


def core_probes() -> tuple[Conversation, ...]:
    """Give the conversations that every engine must build exactly as the reference does."""
    return tuple(probe for probe in load_probes() if probe.group == CORE)
