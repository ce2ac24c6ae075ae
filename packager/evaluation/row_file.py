"""`rows.jsonl`: every answer with its scores, written row by row, so that a killed evaluation goes on where it was.

`header.json` says what the rows depend on and is on the disk before the first one. Rows are continued under an equal header
only. A row counts when its line is whole: what follows the last newline is dropped.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import IO

from packager.codec import decode, encode, json_line, pretty_json
from packager.durable import disk_errors, write_durably
from packager.errors import InputInvalid
from packager.evaluation.sides import SideName, Subject
from packager.metrics.metric import BleuScores, LlamaFactoryScores

ROWS_NAME = "rows.jsonl"
HEADER_NAME = "header.json"
SUMMARY_NAME = "summary.json"
_HINT = "Choose another folder with -o DIR, or begin anew with --restart."


@dataclass(frozen=True, kw_only=True)
class Header:
    """Everything that rows depend on.

    Attributes:
        packaged: The packaged model.
        reference: The reference, None when there is none.
        data_sha256: Of the data file.
        rows: How many of its rows are asked.
        max_tokens: The longest answer.
        metric: The metric's signature.
        packager: This program's version.
    """

    packaged: Subject
    reference: Subject | None
    data_sha256: str
    rows: int
    max_tokens: int
    metric: str
    packager: str


@dataclass(frozen=True, kw_only=True)
class EvaluatedRow:
    """One row and side.

    Attributes:
        side: Whose answer it is.
        row: The row's line in the data file, from 1.
        sha256: Of that line.
        prompt: The last text of the prompt.
        label: The answer that is expected, as it stands in the data.
        prediction: The answer, without reasoning in front of it; None when there is none.
        not_answered: Why there is none: a reason code and a line.
        scores: What the prediction scores; None when there is none.
    """

    side: SideName
    row: int
    sha256: str
    prompt: str
    label: str
    prediction: str | None
    not_answered: str = ""
    scores: LlamaFactoryScores | BleuScores | None = None


class RowFile:
    """The rows of a folder, open for more; a context manager.

    Args:
        folder: The folder of the results, held by this process.
        header: What the rows depend on.
        restart: Throw the rows away that are there.

    Raises:
        InputInvalid: On entry, the rows there depend on something else, are damaged, or packager did not write them.
    """

    def __init__(self, folder: Path, header: Header, *, restart: bool) -> None:
        self._folder = folder
        self._path = folder / ROWS_NAME
        self._header = header
        self._restart = restart
        self._file: IO[bytes] | None = None
        self.rows: dict[tuple[SideName, int], EvaluatedRow] = {}

    def __enter__(self) -> RowFile:
        self._prepare()
        with disk_errors(self._path):
            self._file = self._path.open("ab")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            with disk_errors(self._path):  # what could not be written is tried once more
                self._file.close()

    def add(self, row: EvaluatedRow) -> None:
        """Append a row; it is on the disk when this returns.

        Raises:
            NoSpace: The disk is full.
        """
        if self._file is None:
            raise RuntimeError("rows are added inside the with block")
        with disk_errors(self._path):
            self._file.write(json_line(row).encode())
            self._file.flush()
            os.fsync(self._file.fileno())
        self.rows[row.side, row.row] = row

    def _prepare(self) -> None:
        """Leave the header and the whole rows under it on the disk, and read these."""
        before = self._folder / HEADER_NAME
        if not before.exists():
            self._refuse_foreign()
        elif not self._restart and self._path.exists():
            self._require_same(before)
            self._read()
            return
        with disk_errors(self._folder):
            for name in (ROWS_NAME, SUMMARY_NAME):
                (self._folder / name).unlink(missing_ok=True)
        write_durably(before, pretty_json(self._header))

    def _refuse_foreign(self) -> None:
        for name in (ROWS_NAME, SUMMARY_NAME):
            if (self._folder / name).exists():
                raise InputInvalid(
                    f"{self._folder / name}: exists, and packager did not write it",
                    hint="Move it away, or choose another folder with -o DIR.",
                )

    def _require_same(self, path: Path) -> None:
        try:
            before = decode(Header, json.loads(path.read_bytes()), where=path.name)
        except OSError as error:
            raise InputInvalid(f"{path}: {error.strerror}", hint=_HINT) from error
        except (ValueError, RecursionError, InputInvalid) as error:
            raise InputInvalid(
                f"{path}: it cannot be read, so it is not known what its rows depend on", hint=_HINT
            ) from error
        if difference := _difference(before, self._header):
            raise InputInvalid(f"{self._path}: {difference}", hint=_HINT)

    def _read(self) -> None:
        with disk_errors(self._path):
            data = self._path.read_bytes()
            whole = data[: data.rfind(b"\n") + 1]
            if whole != data:
                os.truncate(self._path, len(whole))
        for number, line in enumerate(whole.split(b"\n")[:-1], start=1):
            try:
                row = decode(EvaluatedRow, json.loads(line), where=f"line {number}")
            except (ValueError, RecursionError, InputInvalid) as error:
                raise InputInvalid(f"{self._path}: line {number} is damaged ({error})", hint=_HINT) from error
            self.rows[row.side, row.row] = row


def _difference(before: Header, now: Header) -> str:
    """Name the first value in which two headers differ, with both; empty when they are equal."""
    for field in fields(Header):
        one, other = encode(getattr(before, field.name)), encode(getattr(now, field.name))
        if isinstance(one, dict) and isinstance(other, dict):
            name = next((key for key in one if one[key] != other[key]), "")
            if name:
                return f"it was begun with another {field.name} {name}: {one[name]}, now {other[name]}"
        elif one != other:
            return f"it was begun with another {field.name}: {_shown(one)}, now {_shown(other)}"
    return ""


def _shown(value: object) -> str:
    return "none" if value is None else str(value["name"] if isinstance(value, dict) else value)
