"""What the reference answered before, with its distributions, kept by the digest of everything it depends on.

Computing the reference is most of the time of a verification, and of a verification of the same base and adapter none of it
changes. A folder of the cache is whole or absent; its bytes are compared with their digest before they are believed.

    <cache>/reference/<key>/answers.json    ids and texts, and the digest of each array
    <cache>/reference/<key>/<n>.npy         float32, (prompt + answer positions, vocabulary): 200 to 600 kB a position
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from packager import codec
from packager.durable import disk_errors, sha256_file
from packager.engines.engine import NotSupported
from packager.engines.transformers import Answer
from packager.errors import InputInvalid
from packager.user_cache import cache_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LIMIT_BYTES = 4 << 30  # the least recently used folders go first
_ANSWERS = "answers.json"
_STAGING, _DAY_S = ".new-", 24 * 3600


@dataclass(frozen=True, kw_only=True)
class ReferenceKey:
    """Everything the reference's answers depend on.

    Attributes:
        inputs: sha256 of every file of base and adapter.
        template: The canonical chat template.
        conversations: Digest of what was asked.
        answer_tokens: The longest answer.
        version: transformers, peft and torch.
    """

    inputs: tuple[str, ...]
    template: str
    conversations: str
    answer_tokens: int
    version: str


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """One answer: `prompt`, `ids`, `text` as in `Answer`; the array has the prompt's rows first."""

    prompt: tuple[int, ...]
    ids: tuple[int, ...]
    text: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class _Answers:
    answers: tuple[_Kept | NotSupported, ...]


class ReferenceCache:
    """Answers of references on this machine.

    Args:
        folder: Where they are; by default below the user's cache folder.
        limit_bytes: The most that all of them may take.
    """

    def __init__(self, folder: Path | None = None, *, limit_bytes: int = LIMIT_BYTES) -> None:
        self.folder = folder or cache_folder() / "reference"
        self._limit_bytes = limit_bytes

    def answers(
        self, key: ReferenceKey, ask: Callable[[], tuple[Answer | NotSupported, ...]]
    ) -> tuple[Answer | NotSupported, ...]:
        """Give the answers of a key, asked for when they are not there or damaged.

        Returns:
            The answers, or why the reference gave none; their arrays are read from the disk as they are needed.

        Raises:
            NoSpace: The disk is full.
        """
        final = self.folder / codec.digest(key)
        found = _read(final)
        if found is not None:
            os.utime(final)
            return found
        answers = ask()
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write(final, answers)
        made = _read(final)
        if made is None:
            raise InputInvalid(f"{final}: changed while it was written", hint="Check the disk, then run this again.")
        return made

    def _write(self, final: Path, answers: tuple[Answer | NotSupported, ...]) -> None:
        import numpy as np

        staging = Path(tempfile.mkdtemp(dir=self.folder, prefix=_STAGING))
        try:
            kept: list[_Kept | NotSupported] = []
            for number, answer in enumerate(answers):
                array = staging / f"{number}.npy"
                if isinstance(answer, NotSupported):
                    kept.append(answer)
                else:
                    np.save(array, np.concatenate([answer.prompt_logprobs, answer.logprobs]))
                    sha256 = sha256_file(array)
                    kept.append(_Kept(prompt=answer.prompt, ids=answer.ids, text=answer.text, sha256=sha256))
            (staging / _ANSWERS).write_text(codec.canonical_json(_Answers(answers=tuple(kept))), encoding="utf-8")
            with FileLock(self.folder / ".lock"):
                shutil.rmtree(final, ignore_errors=True)
                self._make_room(_size(staging))
                staging.rename(final)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _make_room(self, size_bytes: int) -> None:
        """Remove what killed runs left, and the least recently used answers until `size_bytes` more fit."""
        folders = sorted((e for e in self.folder.iterdir() if e.is_dir()), key=lambda e: e.stat().st_mtime)
        for left in (e for e in folders if e.name.startswith(_STAGING) and time.time() - e.stat().st_mtime > _DAY_S):
            shutil.rmtree(left, ignore_errors=True)
        kept = [e for e in folders if not e.name.startswith(_STAGING)]
        total = sum(map(_size, kept)) + size_bytes
        while kept and total > self._limit_bytes:
            oldest = kept.pop(0)
            total -= _size(oldest)
            shutil.rmtree(oldest, ignore_errors=True)


def _read(folder: Path) -> tuple[Answer | NotSupported, ...] | None:
    """Give what a folder holds, None when it is not there or not what was written."""
    import numpy as np

    try:
        kept = codec.decode(_Answers, json.loads((folder / _ANSWERS).read_text(encoding="utf-8"))).answers
        found: list[Answer | NotSupported] = []
        for number, answer in enumerate(kept):
            path = folder / f"{number}.npy"
            if isinstance(answer, NotSupported):
                found.append(answer)
            elif sha256_file(path) != answer.sha256:
                return None
            else:
                found.append(_answer(answer, np.load(path, mmap_mode="r", allow_pickle=False)))
    except (OSError, ValueError, InputInvalid):
        return None
    return tuple(found)


def _answer(kept: _Kept, rows: NDArray[np.float32]) -> Answer:
    cut = len(kept.prompt) - 1
    return Answer(prompt=kept.prompt, ids=kept.ids, text=kept.text, logprobs=rows[cut:], prompt_logprobs=rows[:cut])


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())
