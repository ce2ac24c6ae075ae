"""Models on a hub; not there yet."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from packager.errors import Unsupported
from packager.events import Emit, silent

_NAME = re.compile(r"(?:(?:hf|ms):)[\w.-]+/[\w.-]+(?:@[\w./-]+)?|[A-Za-z0-9][\w.-]*/[\w.-]+(?:@[\w./-]+)?", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A model from a hub, as a folder of its cache."""

    folder: Path
    files: tuple[str, ...]
    revision: str
    source: str


def is_hub_name(text: str) -> bool:
    """Say whether a text is a hub's id; a bare one only where no such path exists."""
    return _NAME.fullmatch(text) is not None and (text.startswith(("hf:", "ms:")) or not Path(text).exists())


def fetch(text: str, *, emit: Emit = silent) -> Fetched:
    """Refuse a hub's id."""
    raise Unsupported(f"{text}: models are not fetched from a hub yet", hint="Download it, and pass its folder.")
