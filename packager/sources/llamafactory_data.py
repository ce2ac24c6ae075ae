"""Which files a yaml of LLaMA-Factory trains with, as far as `--data` takes them.

Source: LLaMA-Factory 0.9.5, `data/parser.py` (`get_dataset_list`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from packager.errors import InputInvalid
from packager.formats.json_file import JsonObject, read_object

_SETS = "dataset_info.json"
_FOLDER = "data"  # LLaMA-Factory's own default


def training_files(values: Mapping[str, object]) -> tuple[Path, ...]:
    """Give the `.jsonl` files behind `dataset`; none where they are elsewhere, or cannot be told.

    Args:
        values: The yaml, as `read_yaml` gives it; its paths count from the current folder.
    """
    listed, named = values.get("dataset"), values.get("dataset_dir", _FOLDER)
    names = listed.split(",") if isinstance(listed, str) else listed
    if not isinstance(named, str) or not isinstance(names, list | tuple) or not (Path(named) / _SETS).is_file():
        return ()
    try:
        known = read_object(Path(named) / _SETS)
        entries = [known.child(str(name).strip()) for name in names]
        files = [file for entry in entries if entry is not None and (file := _file(Path(named), entry)) is not None]
    except InputInvalid:
        return ()  # this is a hint: what it cannot say stops nothing
    return tuple(files)


def _file(folder: Path, entry: JsonObject) -> Path | None:
    name = entry.text("file_name")
    path = folder / name if name else None
    return path if path is not None and path.suffix == ".jsonl" and path.is_file() else None
