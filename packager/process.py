"""Run a program to its end: its output line by line, and a failure that shows what was run and how it ended.

Unlike `subprocess.run`, the child gets a process group of its own, so that stopping it stops what it started, and its last
lines are in the error. Arguments are a list; no shell is involved.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from packager.errors import PackagerError, ToolMissing

SHOWN_LINES = 20
_STOP_TIMEOUT_S = 5.0


class ProcessFailed(PackagerError):
    """A program ended with a status other than 0; the message has the command, the status and its last 20 lines."""

    exit_code = 1


def drop_line(line: str) -> None:
    """Ignore a line of output; for callers that need only the outcome."""


def run_process(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] = drop_line,
    log: Path | None = None,
) -> None:
    """Run a command and wait for it; standard output and standard error arrive as one stream.

    Args:
        command: The program and its arguments.
        cwd: The folder it runs in.
        env: Variables that are added to those of this process.
        on_line: Called with each line, without its line end, as it arrives.
        log: A file that every line is appended to; its path is named in a failure.

    Raises:
        ToolMissing: The program does not exist.
        ProcessFailed: It ended with another status than 0.
    """
    arguments = [str(part) for part in command]
    try:
        child = subprocess.Popen(
            arguments,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise ToolMissing(f"{arguments[0]}: not found", hint=f"Install {Path(arguments[0]).name}.") from error
    last: deque[str] = deque(maxlen=SHOWN_LINES)
    try:
        _read_lines(child, last, on_line, log)
        status = child.wait()
    finally:
        stop(child)
    if status != 0:
        raise ProcessFailed(_failure(arguments, status, last), hint=f"The whole output is in {log}." if log else "")


def stop(child: subprocess.Popen[str]) -> None:
    """End a child and everything in its process group; does nothing when it has ended."""
    if child.stdout is not None:
        child.stdout.close()
    if child.poll() is not None:
        return
    _signal_group(child, signal.SIGTERM)
    try:
        child.wait(timeout=_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        _signal_group(child, signal.SIGKILL)
        child.wait()


def _signal_group(child: subprocess.Popen[str], number: signal.Signals) -> None:
    try:
        os.killpg(child.pid, number)
    except ProcessLookupError:
        return  # it ended by itself in the meantime


def _read_lines(
    child: subprocess.Popen[str], last: deque[str], on_line: Callable[[str], None], log: Path | None
) -> None:
    assert child.stdout is not None  # noqa: S101  # it was opened with a pipe
    for line in child.stdout:
        text = line.rstrip("\r\n")
        last.append(text)
        on_line(text)
        if log is not None:
            with log.open("a", encoding="utf-8") as file:
                file.write(text + "\n")


def _failure(arguments: list[str], status: int, last: deque[str]) -> str:
    ending = f"killed by signal {-status}" if status < 0 else f"status {status}"
    return "\n".join([f"{shlex.join(arguments)}: {ending}", *(f"  | {line}" for line in last)])
