"""Text files written whole: the bytes are on the disk when the call returns."""

from __future__ import annotations

import os
from pathlib import Path


def write_text(path: Path, text: str) -> Path:
    """Write UTF-8 text with the newlines it has, flush it to the disk, and give the path back.

    Atomic publishing is the caller's: stages write into a staging folder that is renamed as a whole.
    """
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return path
