"""Commands run to their end, with everything they and their children took, counted by the kernel.

Time of the processor, bytes and the largest process come from the kernel's own books, which hold every child that was
waited for, short ones too. Only what has no such book is sampled: the memory of all processes together, and the disk.

The process that measures has to be small itself: the kernel takes what a parent held when it forked for a peak of its child.

Source:
    proc(5), `/proc/PID/io`: `rchar` and `wchar` count what calls read and wrote, from the page cache too; `read_bytes` what
    came from the disk, memory maps included. A memory map that the page cache serves is in neither.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_MEMORY_INTERVAL_S = 0.05
_DISK_EVERY = 5  # samples of memory
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class CommandFailed(Exception):
    """A command ended with a status other than 0; the text has its last lines."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What commands took.

    Attributes:
        seconds: From start to end.
        cpu_seconds: User and system, of all processes.
        peak_bytes: Resident memory of the largest process.
        tree_bytes: Resident memory of all processes together, sampled 20 times a second (at least `peak_bytes`).
        read_bytes: Read by calls; what is read through a memory map is not in it.
        disk_read_bytes: Read from the disk itself: what the page cache did not have.
        written_bytes: Written by calls, to files and pipes.
        peak_disk_bytes: Most that the folder held, sampled 4 times a second.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    tree_bytes: int
    read_bytes: int
    disk_read_bytes: int
    written_bytes: int
    peak_disk_bytes: int

    def then(self, other: Cost) -> Cost:
        """Give the cost of both, one after the other: sums, and the larger of the peaks."""
        return Cost(
            seconds=self.seconds + other.seconds,
            cpu_seconds=self.cpu_seconds + other.cpu_seconds,
            peak_bytes=max(self.peak_bytes, other.peak_bytes),
            tree_bytes=max(self.tree_bytes, other.tree_bytes),
            read_bytes=self.read_bytes + other.read_bytes,
            disk_read_bytes=self.disk_read_bytes + other.disk_read_bytes,
            written_bytes=self.written_bytes + other.written_bytes,
            peak_disk_bytes=max(self.peak_disk_bytes, other.peak_disk_bytes),
        )


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A command that ended: what it took, its stdout, and whether it was killed on the way."""

    cost: Cost
    out: str
    killed: bool


def measure(
    command: list[str], folder: Path, *, environment: Mapping[str, str] | None = None, kill_at_bytes: int | None = None
) -> Finished:
    """Run one command and give what it took.

    Args:
        command: The program and its arguments.
        folder: Where it writes; its temporary files go below it as well.
        environment: Variables to set.
        kill_at_bytes: Kill it and its children when the folder holds this much; None lets it end.

    Raises:
        CommandFailed: It ended with another status than 0, and not because of `kill_at_bytes`.
    """
    with contextlib.ExitStack() as open_files:
        out, err = (open_files.enter_context(tempfile.TemporaryFile("w+", errors="replace")) for _ in range(2))
        temporary = open_files.enter_context(tempfile.TemporaryDirectory(prefix=".tmp-", dir=folder))
        variables = {**os.environ, "TMPDIR": temporary, **(environment or {})}
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=out, stderr=err, env=variables, start_new_session=True)
        sampler = _Sampler(child.pid, folder, kill_at_bytes)
        try:
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # its books stay open until it is reaped
        except BaseException:
            os.killpg(child.pid, signal.SIGKILL)
            raise
        finally:
            seconds = time.perf_counter() - start
            sampler.stop()
            counters = parse_io(Path(f"/proc/{child.pid}/io").read_text())
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        killed = sampler.killed and child.returncode == -signal.SIGKILL
        if child.returncode != 0 and not killed:
            raise CommandFailed(f"{' '.join(command)[:200]}: status {child.returncode}\n{err.read()[-2000:]}")
        return Finished(cost=_cost(seconds, usage, counters, sampler), out=out.read(), killed=killed)


def _cost(seconds: float, usage: resource.struct_rusage, counters: dict[str, int], sampler: _Sampler) -> Cost:
    peak = usage.ru_maxrss * 1024
    return Cost(
        seconds=seconds,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_bytes=peak,
        tree_bytes=max(peak, sampler.tree_bytes),
        read_bytes=counters["rchar"],
        disk_read_bytes=counters["read_bytes"],
        written_bytes=counters["wchar"],
        peak_disk_bytes=sampler.disk_bytes,
    )


def parse_io(text: str) -> dict[str, int]:
    """Give the counters of a `/proc/PID/io`."""
    return {key: int(value) for key, _, value in (line.partition(":") for line in text.splitlines())}


def resident_bytes(pid: int) -> int:
    """Give the resident memory of a process and its children, 0 once it is gone. Shared pages count in each."""
    total, left = 0, [pid]
    while left:
        one = left.pop()
        with contextlib.suppress(OSError):  # a process may end between two lines here
            total += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * _PAGE_BYTES
            for thread in Path(f"/proc/{one}/task").iterdir():
                left += map(int, (thread / "children").read_text().split())
    return total


def folder_bytes(folder: Path) -> int:
    """Give what the files below a folder take on the disk, while others write there."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(root, name)).st_blocks * 512  # noqa: PTH118  # four times a second
    return total


class _Sampler(threading.Thread):
    """Keeps the largest memory and disk seen until `stop`, and kills at a size of the folder."""

    def __init__(self, pid: int, folder: Path, kill_at_bytes: int | None) -> None:
        super().__init__(daemon=True)
        self._pid, self._folder, self._kill_at = pid, folder, kill_at_bytes
        self._stopped = threading.Event()
        self.tree_bytes = self.disk_bytes = 0
        self.killed = False
        self.start()

    def run(self) -> None:
        """Sample until stopped."""
        count = 0
        while not self._stopped.wait(_MEMORY_INTERVAL_S):
            self.tree_bytes = max(self.tree_bytes, resident_bytes(self._pid))
            if count % _DISK_EVERY == 0:
                self._look_at_disk()
            count += 1

    def stop(self) -> None:
        """End, with a last look at the disk."""
        self._stopped.set()
        self.join()
        self.disk_bytes = max(self.disk_bytes, folder_bytes(self._folder))

    def _look_at_disk(self) -> None:
        size = folder_bytes(self._folder)
        self.disk_bytes = max(self.disk_bytes, size)
        if self._kill_at is not None and size >= self._kill_at and not self.killed:
            self.killed = True
            os.killpg(self._pid, signal.SIGKILL)
