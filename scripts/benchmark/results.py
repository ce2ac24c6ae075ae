"""What was measured, as values, and the JSON file they are kept in."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from packager.codec import decode, pretty_json
from packager.cores import usable_cores
from scripts.benchmark.conversions import FloorCost
from scripts.benchmark.process_tree import Cost

_PACKAGES = ("ollama-packager", "llama-cpp-python", "torch", "transformers", "peft", "numpy")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the figures depend on besides the programs; `processor` is the kernel's name for it, memory in bytes."""

    processor: str
    cores: int
    memory_bytes: int
    system: str
    python: str
    packages: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Round:
    """One run of each side, one after the other; None where a side was not measured."""

    chain: Cost | None
    llamafactory: Cost | None
    packager: Cost
    floor: FloorCost


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What `packager plan` said before."""

    peak_disk_bytes: int
    peak_memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """A build that was killed and run again.

    Attributes:
        killed_at: Fraction of the output at which it was to be killed.
        before_bytes: Written until then, by the process itself: nobody waits for the children of one that is killed.
        after_bytes: Written by the second run.
        output_bytes: Size of the finished files.
        after_seconds: What the second run took.
        equal: Whether the files have the digests of a build that was not killed.
    """

    killed_at: float
    before_bytes: int
    after_bytes: int
    output_bytes: int
    after_seconds: float
    equal: bool

    @property
    def repeated_bytes(self) -> int:
        """What was written twice."""
        return self.before_bytes + self.after_bytes - self.output_bytes


@dataclass(frozen=True, kw_only=True)
class SizeResult:
    """Everything measured for one shape."""

    size: str
    published: str
    parameters: int
    outputs: tuple[str, ...]
    date: str
    machine: Machine
    prediction: Prediction
    rounds: tuple[Round, ...]
    resumed: Resumed | None

    def median(self, figure: Callable[[Round], float | None]) -> float | None:
        """Give the median of a figure over the rounds that have it, None where none has."""
        found = [value for value in map(figure, self.rounds) if value is not None]
        return statistics.median(found) if found else None


def this_machine() -> Machine:
    """Describe the machine, without its name."""
    named = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return Machine(
        processor=named[0].partition(":")[2].strip() if named else platform.machine(),
        cores=usable_cores(),
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        packages=tuple(f"{name} {version(name)}" for name in _PACKAGES),
    )


def today() -> str:
    """Give the date, in UTC."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def read_results(path: Path) -> tuple[SizeResult, ...]:
    """Give the results of a file, smallest model first; none where there is no file."""
    if not path.exists():
        return ()
    return decode(tuple[SizeResult, ...], json.loads(path.read_text(encoding="utf-8")), where=str(path))


def add_result(path: Path, result: SizeResult) -> tuple[SizeResult, ...]:
    """Put a result in the place of the one of its size, and give all."""
    others = [other for other in read_results(path) if other.size != result.size]
    results = tuple(sorted([*others, result], key=lambda one: one.parameters))
    path.write_text(pretty_json(results), encoding="utf-8")
    return results
