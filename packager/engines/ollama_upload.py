"""A file on its way into Ollama's store."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from packager.errors import InputInvalid
from packager.events import Advanced, Emit

CHUNK_BYTES = 1 << 20
PROGRESS_INTERVAL_S = 0.1


class Upload:
    """A file on its way: its chunks, and how many of its `size` bytes were `sent`.

    Raises:
        InputInvalid: It cannot be read, or has become shorter.
    """

    def __init__(self, file: Path, stage: str, emit: Emit) -> None:
        self.file, self.stage, self.emit, self.sent = file, stage, emit, 0
        try:
            self.size = file.stat().st_size
        except OSError as error:
            raise InputInvalid(f"{file}: {error.strerror}", hint="Build it again.") from error

    def chunks(self) -> Iterator[bytes]:
        """Give the file's bytes, telling how far it is at most ten times a second."""
        told = 0.0
        try:
            with self.file.open("rb") as stream:
                while chunk := stream.read(min(CHUNK_BYTES, self.size - self.sent)):
                    yield chunk
                    self.sent += len(chunk)
                    if self.sent == self.size or time.monotonic() - told >= PROGRESS_INTERVAL_S:
                        told = time.monotonic()
                        self._tell()
        except OSError as error:
            raise InputInvalid(f"{self.file}: {error.strerror}", hint="Build it again.") from error
        if self.sent != self.size:
            raise InputInvalid(
                f"{self.file}: has {self.sent} bytes, had {self.size} a moment ago", hint="Build it again."
            )

    def _tell(self) -> None:
        self.emit(Advanced(stage=self.stage, done=self.sent, total=self.size, unit="B", detail=self.file.name))
