"""A child process that answers one line with one line, and is killed when it takes too long.

Unlike `packager.process`, which runs a command to its end, this keeps a child for many questions.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from types import TracebackType

# What an interpreter needs to start and to tell the time; nothing else of the environment reaches the child.
_KEPT_VARIABLES = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "TZ", "SYSTEMROOT", "TMPDIR", "TEMP")

_START_TIMEOUT_S = 60.0  # for an interpreter on a busy machine: no question is waiting yet
_READY_BYTES = 1 << 10


class WorkerFailed(Exception):
    """The worker gave no answer; the message says why in a few words. It has been ended."""


class WorkerProcess:
    """A child started at the first question, started again after it failed, and ended by `close` or `with`.

    Args:
        command: The program and its arguments. It writes one line when it is ready, then one line for each line it
            reads from stdin, and ends when stdin ends.
    """

    def __init__(self, command: tuple[str, ...]) -> None:
        self._command = command
        self._child: subprocess.Popen[bytes] | None = None
        self._ready = False

    @property
    def pid(self) -> int | None:
        """The child's process id, None while there is no child."""
        return None if self._child is None else self._child.pid

    def start(self) -> None:
        """Start the child and do not wait for it: the first question finds it ready, or sooner so."""
        self._spawned()

    def ask(self, line: bytes, *, timeout_s: float, limit_bytes: int) -> bytes:
        """Send one line and give the one that comes back, without its newline.

        Args:
            line: The question, without a newline in it.
            timeout_s: Wall-clock time for the question and the answer, seconds.
            limit_bytes: The longest answer that is read.

        Raises:
            WorkerFailed: Too slow, too long an answer, or the child ended.
        """
        try:
            child = self._started()
            return _exchange(child, line + b"\n", deadline=time.monotonic() + timeout_s, limit_bytes=limit_bytes)
        except BaseException:  # also an interrupt in mid-answer: the next answer would belong to this question
            self.close()
            raise

    def close(self) -> None:
        """End the child, if there is one, and wait for it."""
        child, self._child = self._child, None
        self._ready = False
        if child is None:
            return
        child.kill()
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                stream.close()
        child.wait()

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _started(self) -> subprocess.Popen[bytes]:
        child = self._spawned()
        if not self._ready:
            _exchange(child, b"", deadline=time.monotonic() + _START_TIMEOUT_S, limit_bytes=_READY_BYTES)
            self._ready = True
        return child

    def _spawned(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
            self._child = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                bufsize=0,
            )
            for stream in (self._child.stdin, self._child.stdout):
                if stream is not None:
                    os.set_blocking(stream.fileno(), False)
        return self._child


def _exchange(child: subprocess.Popen[bytes], question: bytes, *, deadline: float, limit_bytes: int) -> bytes:
    if child.stdin is None or child.stdout is None:
        raise WorkerFailed("has no pipes")
    unsent, answer = memoryview(question), bytearray()
    with selectors.DefaultSelector() as selector:
        if unsent:
            selector.register(child.stdin, selectors.EVENT_WRITE)
        selector.register(child.stdout, selectors.EVENT_READ)
        while not answer.endswith(b"\n"):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise WorkerFailed("does not come to an end")
            if len(answer) > limit_bytes:
                raise WorkerFailed("writes without end")
            for key, _ in selector.select(remaining):
                if key.fileobj is child.stdout:
                    answer += _received(child, child.stdout.fileno())
                    continue
                unsent = unsent[_sent(child, child.stdin.fileno(), unsent) :]
                if not unsent:
                    selector.unregister(child.stdin)
    return bytes(answer[:-1])


def _received(child: subprocess.Popen[bytes], stream: int) -> bytes:
    part = os.read(stream, 1 << 16)
    if not part:
        raise WorkerFailed(_ending(child))
    return part


def _sent(child: subprocess.Popen[bytes], stream: int, unsent: memoryview) -> int:
    try:
        return os.write(stream, unsent)
    except BrokenPipeError:
        raise WorkerFailed(_ending(child)) from None


def _ending(child: subprocess.Popen[bytes]) -> str:
    status = child.wait()
    if status == -getattr(signal, "SIGXCPU", 0):
        return "uses too much processor time"
    return f"ended the process that ran it (status {status})"
