"""A folder in the cache that looks like a user's with something added: its files are links, and the user's stay."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from filelock import FileLock

from packager.durable import disk_errors
from packager.sources.trainer_config import run_configs
from packager.user_cache import cache_folder

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".index.json")


def made_once(kind: str, key: str, name: str, make: Callable[[Path], None]) -> Path:
    """Give a folder of the cache, made by `make` where it is not there yet; complete or not at all.

    Args:
        kind: The folder's group in the cache.
        key: Everything it depends on, as a sha256.
        name: What the folder is called, which is what a model is known by.
        make: Fills an empty folder.

    Raises:
        NoSpace: The disk of the cache is full.
    """
    place = cache_folder() / kind / hashlib.sha256(f"{key}/{name}".encode()).hexdigest()
    with disk_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{place}.lock"):
            if not (place / name).is_dir():
                staging = place.with_name(f"{place.name}.new")
                for left in (place, staging):
                    shutil.rmtree(left, ignore_errors=True)
                try:
                    (staging / name).mkdir(parents=True)
                    make(staging / name)
                    staging.replace(place)
                finally:
                    shutil.rmtree(staging, ignore_errors=True)
    return place / name


def small_files(folder: Path) -> tuple[Path, ...]:
    """Give everything in a folder that holds no weights: configurations, tokenizer, templates, card, licence.

    Of a `checkpoint-N` the configurations that its trainer left in the run's own folder belong to it: they name the template.
    """
    mine = {
        path.name: path.absolute()
        for path in folder.iterdir()
        if (path.name == "additional_chat_templates" or path.is_file())
        and not path.name.startswith(".")
        and not path.name.endswith(WEIGHTS)
    }
    of_run = {path.name: path for path in run_configs(folder)}
    return tuple(path for _, path in sorted({**of_run, **mine}.items()))


def link_small_files(folder: Path, into: Path) -> None:
    """Link the small files of a folder."""
    for path in small_files(folder):
        (into / path.name).symlink_to(path)


def fingerprint(paths: Iterable[Path], *more: str) -> str:
    """Give a sha256 of where files are, their sizes and when they were last changed, and of further texts."""
    facts = []
    for path in paths:
        with disk_errors(path):
            status = path.stat()
        facts.append([str(path.absolute()), status.st_size, status.st_mtime_ns])
    return hashlib.sha256(json.dumps([facts, more]).encode()).hexdigest()
