"""Which model on a hub a folder was fetched from, as far as the folder itself shows it."""

from __future__ import annotations

import re
from pathlib import Path

from packager.sources.hub_name import HubKind
from packager.sources.hub_records import read_receipt

_STORAGE = re.compile(r"models--([^/]+?)--([^/]+)")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def hub_origin(folder: Path) -> str | None:
    """Give `hf:ORG/NAME at COMMIT` for a folder of a Hugging Face cache, or one that `packager fetch` filled; None for others.

    What was changed in the folder since is not looked for beyond the files' sizes.
    """
    receipt = read_receipt(folder)
    if receipt is not None:
        sizes = [(folder / item.name, item.size_bytes) for item in receipt.files]
        same = all(path.is_file() and path.stat().st_size == size for path, size in sizes)
        return f"{receipt.source} at {receipt.revision}" if same else None
    full = folder.absolute()
    found = _STORAGE.fullmatch(full.parent.parent.name) if full.parent.name == "snapshots" else None
    if found is None or not _COMMIT.fullmatch(full.name):
        return None
    return f"{HubKind.HUGGING_FACE}:{found[1]}/{found[2]} at {full.name}"
