"""The folder that keeps what is slow to fetch or to make; everything in it can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Give `PACKAGER_CACHE`, or the platform's own folder for caches; it may not exist yet."""
    import platformdirs

    return Path(os.environ.get("PACKAGER_CACHE") or platformdirs.user_cache_dir("packager"))
