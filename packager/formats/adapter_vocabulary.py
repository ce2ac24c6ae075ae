"""Whether the tokenizer and the embedding of a fine-tune fit together, and whose tokenizer it is."""

from __future__ import annotations

from pathlib import Path

from packager.artifacts import Adapter, Checkpoint
from packager.errors import InputInvalid
from packager.formats.fine_tuned import fine_tuned
from packager.formats.json_file import read_bytes
from packager.formats.tokenizer import TOKENIZER_LIMIT_BYTES, read_tokenizer

_TOKENIZER = "tokenizer.json"


def larger_tokenizer(base: Checkpoint, adapter: Adapter) -> Path | None:
    """Give the last of the adapter's folders whose tokenizer has more tokens than the base's, None when none has.

    Raises:
        InputInvalid: The tokenizer that counts has more tokens than the embedding has rows.
    """
    rows, mine = fine_tuned(base, adapter).vocab_size, base.folder / _TOKENIZER
    found = None
    for folder in reversed(adapter.folders):
        theirs = folder / _TOKENIZER
        if not theirs.is_file() or (mine.is_file() and _same(theirs, mine)):
            continue
        if _tokens(folder) > (_tokens(base.folder) if mine.is_file() else 0):
            found = folder
            break
    if found is not None or (adapter.vocab_size is not None and mine.is_file()):
        _check_rows(found or base.folder, rows, adapter)
    return found


def _check_rows(folder: Path, rows: int, adapter: Adapter) -> None:
    tokens = _tokens(folder)
    if tokens > rows:
        raise InputInvalid(
            f"{folder / _TOKENIZER}: has {tokens} tokens, the embedding with {adapter.folder} has {rows} rows",
            hint="Copy the tokenizer that it was trained with into the adapter's folder.",
        )


def _tokens(folder: Path) -> int:
    return read_tokenizer(folder).vocabulary_size or 0


def _same(one: Path, other: Path) -> bool:
    limit = TOKENIZER_LIMIT_BYTES
    return one.stat().st_size == other.stat().st_size and (
        read_bytes(one, limit_bytes=limit) == read_bytes(other, limit_bytes=limit)
    )
