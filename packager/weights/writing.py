"""The files of a pass written side by side: one thread digests and writes each, and from time to time a mark is made.

A mark says up to where all files are on the disk. It is made beside the writing, which does not wait for the disk.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from packager.artifacts import Gguf
from packager.events import Advanced, Emit
from packager.weights.gguf_output import GgufOutput, HeaderDiffers
from packager.weights.journal import FileMark, Journal, Mark, Position
from packager.weights.memory import BYTES_WAITING
from packager.weights.stream import ConvertedBlock

# Output bytes between two marks, at least and at most. One mark is made at a time, so a kill costs at most twice as much.
_MARK_BYTES = (16 << 20, 512 << 20)
_MARKS = 40


class Progress:
    """Reports bytes as they are written, at most 200 times."""

    def __init__(self, stage: str, total: int, emit: Emit, done: int = 0) -> None:
        self._stage, self._total, self._emit = stage, total, emit
        self._done = self._shown = done

    def advance(self, size_bytes: int, detail: str) -> None:
        """Count bytes of the tensor that `detail` names."""
        self._done += size_bytes
        if self._done == self._total or self._done - self._shown >= self._total // 200:
            self._shown = self._done
            self._emit(Advanced(stage=self._stage, done=self._done, total=self._total, unit="B", detail=detail))


@contextmanager
def left_or_removed(outputs: list[GgufOutput], journal: Journal) -> Iterator[None]:
    """Leave unfinished files for another run where this one is interrupted; remove them where anything else goes wrong."""
    try:
        yield
    except (KeyboardInterrupt, HeaderDiffers):
        for output in outputs:
            output.close()
        raise
    except BaseException:
        for output in outputs:
            output.discard()
        journal.remove()
        raise


@dataclass(frozen=True)
class _Written:
    """A block on its way into the files."""

    block: ConvertedBlock
    futures: tuple[Future[None], ...]
    size_bytes: int

    @property
    def done(self) -> bool:
        return all(future.done() for future in self.futures)


class OutputWriter:
    """Writes blocks to all outputs of a pass, in the order in which they come.

    Args:
        outputs: The files.
        journal: Where marks go.
        advance: Called with the number of bytes written of a block to all files, and its tensor.
    """

    def __init__(self, outputs: list[GgufOutput], journal: Journal, advance: Callable[[int, str], None]) -> None:
        self._outputs = outputs
        self._journal = journal
        self._advance = advance
        self._pools = [ThreadPoolExecutor(1, thread_name_prefix="write") for _ in outputs]
        self._marking = ThreadPoolExecutor(1, thread_name_prefix="mark")
        self._mark: Future[None] | None = None
        self._waiting: deque[_Written] = deque()
        self._waiting_bytes = self._unmarked_bytes = 0
        least, most = _MARK_BYTES
        self._mark_bytes = min(most, max(least, sum(output.size_bytes for output in outputs) // _MARKS))

    def __enter__(self) -> OutputWriter:
        return self

    def __exit__(self, *_: object) -> None:
        """Return when no thread touches a file any more; what waits is not written."""
        for pool in (*self._pools, self._marking):
            pool.shutdown(wait=True, cancel_futures=True)

    def write(self, block: ConvertedBlock) -> None:
        """Hand a block to every file; returns before it is written.

        Raises:
            NoSpace: The disk is full; found with this block or an earlier one.
        """
        data = [block.data[output.type_of(block.name)] for output in self._outputs]
        futures = tuple(
            pool.submit(_write, output, part, block.last)
            for pool, output, part in zip(self._pools, self._outputs, data, strict=True)
        )
        self._waiting.append(_Written(block, futures, sum(map(len, data))))
        self._waiting_bytes += block.size_bytes
        self._unmarked_bytes += sum(map(len, data))
        while self._waiting and (self._waiting_bytes > BYTES_WAITING or self._waiting[0].done):
            self._wait()
        if self._unmarked_bytes >= self._mark_bytes:
            self._make_mark(block.after)

    def finish(self) -> tuple[Gguf, ...]:
        """Flush every file to disk and give it its name; the journal is gone then.

        Raises:
            NoSpace: The disk is full.
        """
        while self._waiting:
            self._wait()
        if self._mark is not None:
            self._mark.result()
        finishing = [pool.submit(output.finish) for pool, output in zip(self._pools, self._outputs, strict=True)]
        ggufs = tuple(future.result() for future in finishing)
        self._journal.remove()
        return ggufs

    def _wait(self) -> None:
        written = self._waiting.popleft()
        for future in written.futures:
            future.result()
        self._waiting_bytes -= written.block.size_bytes
        self._advance(written.size_bytes, written.block.name)

    def _make_mark(self, position: Position) -> None:
        if self._mark is not None:
            self._mark.result()
        files = [pool.submit(output.mark) for pool, output in zip(self._pools, self._outputs, strict=True)]
        self._mark = self._marking.submit(self._sync, position, files)
        self._unmarked_bytes = 0

    def _sync(self, position: Position, files: list[Future[FileMark]]) -> None:
        marks = tuple(file.result() for file in files)
        for output in self._outputs:
            output.sync()
        self._journal.add(Mark(position=position, files=marks))


def _write(output: GgufOutput, data: memoryview, last: bool) -> None:
    output.write(data)
    if last:
        output.end_tensor()
