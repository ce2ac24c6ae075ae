"""The command line, run as a user runs it: in a process of its own, with what it prints."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What a finished command left: its exit code and what it printed."""

    code: int
    out: str
    err: str


def run_packager(*arguments: object, ollama: str = "127.0.0.1:9", text: str = "", cwd: Path | None = None) -> Finished:
    """Run `packager` to its end. Without an address for Ollama it finds none: nothing listens on port 9."""
    environment = {**os.environ, "OLLAMA_HOST": ollama, "NO_COLOR": "1", "COLUMNS": "120"}
    done = subprocess.run(
        [sys.executable, "-m", "packager", *(str(argument) for argument in arguments)],
        capture_output=True, text=True, input=text, env=environment, cwd=cwd, timeout=600, check=False,
    )  # fmt: skip
    return Finished(code=done.returncode, out=done.stdout, err=done.stderr)


def error_lines(finished: Finished) -> list[str]:
    """The lines of stderr that are errors or hints; a traceback anywhere fails the test at once."""
    assert "Traceback" not in finished.err, finished.err
    return [line for line in finished.err.splitlines() if line.startswith(("error: ", "hint: "))]
