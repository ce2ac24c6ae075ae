"""The names that models have on a hub, as a user types them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from packager.errors import Usage

_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}"
_BARE = re.compile(rf"({_PART}/{_PART})(?:@([A-Za-z0-9_][A-Za-z0-9_./-]{{0,199}}))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_NOT_IN_A_NAME = ("..", "--", "//")


class HubKind(StrEnum):
    """The hubs that models are fetched from, by their prefix."""

    HUGGING_FACE = "hf"
    MODELSCOPE = "ms"


@dataclass(frozen=True, kw_only=True)
class HubName:
    """A model on a hub: `HubName.parse(str(name)) == name`.

    Attributes:
        kind: Which hub.
        repo: `ORG/NAME`.
        revision: A branch, tag or commit; None for the hub's default branch.
    """

    kind: HubKind
    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.source + (f"@{self.revision}" if self.revision else "")

    @property
    def source(self) -> str:
        """The name without its revision: `hf:ORG/NAME`."""
        return f"{self.kind}:{self.repo}"

    @property
    def commit(self) -> str | None:
        """The revision where it is a whole commit id, which never moves."""
        return self.revision if self.revision and _COMMIT.fullmatch(self.revision) else None

    @classmethod
    def parse(cls, text: str, *, revision: str | None = None) -> HubName:
        """Read `hf:ORG/NAME[@REVISION]`, `ms:ORG/NAME[@REVISION]` or `ORG/NAME[@REVISION]`, which means hf.

        Args:
            text: The name.
            revision: The revision where it is given apart from the name.

        Raises:
            Usage: It is no such name, or two revisions are given.
        """
        prefix, colon, rest = text.partition(":")
        if not colon:
            prefix, rest = HubKind.HUGGING_FACE.value, text
        if prefix not in set(HubKind) or (found := _matched(rest)) is None:
            raise Usage(f"{text!r} is no name on a hub", hint="Write hf:ORG/NAME, ms:ORG/NAME or hf:ORG/NAME@REVISION.")
        name = cls(kind=HubKind(prefix), repo=found[1], revision=found[2])
        if revision is None or revision == name.revision:
            return name
        if name.revision is not None:
            raise Usage(f"{text} names a revision, and --revision {revision} names another", hint="Leave out one.")
        if _matched(f"{name.repo}@{revision}") is None:
            raise Usage(f"--revision {revision!r} is no revision", hint="Pass a branch, a tag or a commit id.")
        return replace(name, revision=revision)


def is_hub_name(text: str) -> bool:
    """Say whether a text that stands for a model means one on a hub, and not a folder.

    With a prefix it always does; `ORG/NAME` does where no file or folder has that name.
    """
    if text.partition(":")[0] in set(HubKind) and ":" in text:
        return True
    return _matched(text) is not None and not Path(text).exists()


def _matched(text: str) -> re.Match[str] | None:
    found = _BARE.fullmatch(text)
    return None if found is None or any(bad in text for bad in _NOT_IN_A_NAME) or text.endswith("/") else found
