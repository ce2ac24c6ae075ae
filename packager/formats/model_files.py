"""Which files of a base and an adapter a result depends on."""

from __future__ import annotations

from pathlib import Path

from packager.artifacts import Adapter, Checkpoint
from packager.errors import InputInvalid

_SUFFIXES = (".json", ".jinja", ".model", ".txt", ".md")


def model_files(base: Checkpoint, adapter: Adapter | None) -> tuple[Path, ...]:
    """Give every file that a result depends on: weights, configurations, tokenizers, templates, card and licence.

    The base's files come first; within a folder they are sorted by name.

    Raises:
        InputInvalid: A folder cannot be read any more.
    """
    tensors = (*base.tensors, *(adapter.tensors if adapter else ()))
    weights = {entry.file for entry in tensors}
    found: list[Path] = []
    for folder in (base.folder, *(adapter.folders if adapter else ())):
        try:
            names = [path for path in folder.iterdir() if path.suffix in _SUFFIXES or path == base.license_file]
            templates = folder.glob("additional_chat_templates/*.jinja")
            mine = {path for path in weights if path.parent == folder}
            found.extend(sorted({path for path in (*names, *templates) if path.is_file()} | mine))
        except OSError as error:
            raise InputInvalid(f"{folder}: cannot be read ({error.strerror})", hint="Check its permissions.") from None
    return tuple(found)
