"""One size measured: its model made, every side run in turn as often as asked, the kill if asked, everything removed again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from packager.codec import decode, encode
from scripts.benchmark.conversions import FloorCost, Work, work_of
from scripts.benchmark.process_tree import Cost, Finished
from scripts.benchmark.results import Prediction, Resumed, Round, SizeResult, this_machine, today
from scripts.benchmark.shapes import Shape
from scripts.benchmark.sides import ROOT, Subject, predicted, run_chain, run_llamafactory, run_packager

GB = 1e9
_BITS = {"f16": 16.0, "bf16": 16.0, "f32": 32.0, "q8_0": 8.5}
_OTHER_BITS = 6.6  # no other type needs more on a whole model


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What to measure.

    Attributes:
        shape: The size.
        tokenizer: A folder with the tokenizer of that shape.
        outputs: Names of the files to make.
        runs: How many rounds.
        chain: Whether the usual chain is run.
        llamafactory: LLaMA-Factory's program; None leaves that side out.
        kill_at: Fraction of the output at which a further build is killed and resumed; None does neither.
        tree: llama.cpp's tree.
        work: Where everything is written.
    """

    shape: Shape
    tokenizer: Path
    outputs: tuple[str, ...]
    runs: int
    chain: bool
    llamafactory: Path | None
    kill_at: float | None
    tree: Path
    work: Path


def needed_disk_bytes(asked: Asked) -> int:
    """Give an upper bound of what measuring a size takes on the disk: the model, and the largest side."""
    parameters = asked.shape.parameters
    model = 2 * parameters + 4 * sum(tensor.elements for tensor in asked.shape.lora_tensors())
    outputs = sum(_BITS.get(name, _OTHER_BITS) / 8 * parameters for name in asked.outputs)
    beside = 2 * parameters * (1 if "f16" in asked.outputs else 2)  # the merged checkpoint, and the f16 file between
    return int(model + outputs + (beside if asked.chain or asked.llamafactory else 0) + 1e8)


def measure_size(asked: Asked) -> SizeResult:
    """Measure one size and print every run as it ends."""
    needed, free = needed_disk_bytes(asked), shutil.disk_usage(asked.work).free
    if needed > free:
        sys.exit(
            f"error: {asked.shape.name} needs {needed / GB:.1f} GB in {asked.work}, {free / GB:.1f} GB are free\n"
            "hint: Free some space, leave sides out (--sides packager), or pass --work DIR."
        )
    with emptied(asked.work / f"bench-{asked.shape.name}") as folder:
        print(f"{asked.shape.name}: making a model of {asked.shape.parameters / GB:.2f} billion parameters", flush=True)
        make = [sys.executable, "-m", "scripts.benchmark.models", asked.shape.name, str(asked.tokenizer), str(folder)]
        subprocess.run(make, check=True, cwd=ROOT)
        os.sync()  # the first side shall not wait for the model to reach the disk
        subject = Subject(
            shape=asked.shape,
            base=folder / "base",
            lora=folder / "lora",
            outputs=asked.outputs,
            tree=asked.tree,
            llamafactory=asked.llamafactory,
        )
        plan = predicted(subject, folder / "planned")
        measured = [_round(asked, subject, folder, number) for number in range(1, asked.runs + 1)]
        resumed = None
        if asked.kill_at is not None:
            resumed = _resumed(asked.kill_at, subject, folder, plan["output_bytes"], digests=measured[-1][1])
    return SizeResult(
        size=asked.shape.name,
        published=asked.shape.published,
        parameters=asked.shape.parameters,
        outputs=asked.outputs,
        date=today(),
        machine=this_machine(),
        prediction=Prediction(peak_disk_bytes=plan["peak_disk_bytes"], peak_memory_bytes=plan["peak_memory_bytes"]),
        rounds=tuple(one for one, _ in measured),
        resumed=resumed,
    )


def _round(asked: Asked, subject: Subject, folder: Path, number: int) -> tuple[Round, list[str]]:
    """Run every side once; give what they took, and the digests of packager's files."""
    chain = llamafactory = None
    if asked.chain:
        with emptied(folder / "chain") as work:
            chain = _shown(f"run {number}  usual chain  ", run_chain(subject, work / "out"))
    if asked.llamafactory is not None:
        with emptied(folder / "llamafactory") as work:
            llamafactory = _shown(f"run {number}  LLaMA-Factory", run_llamafactory(subject, work / "out"))
    with emptied(folder / "packager") as work:
        build = run_packager(subject, work / "out")
        packager = _shown(f"run {number}  packager     ", build.cost)
        wanted = work_of(sorted((work / "out").glob("*.gguf")))
    floor = _floor(wanted)
    print(f"run {number}  kernels alone  {floor.seconds:7.1f} s  {floor.cpu_seconds:7.1f} s of processor", flush=True)
    return Round(chain=chain, llamafactory=llamafactory, packager=packager, floor=floor), _digests(build)


def _floor(work: tuple[Work, ...]) -> FloorCost:
    """Run the kernels in a process of their own: this one has to stay small, children inherit its peak."""
    command = [sys.executable, "-m", "scripts.benchmark.floor"]
    given = json.dumps(encode(work))
    done = subprocess.run(command, input=given, text=True, check=True, cwd=ROOT, stdout=subprocess.PIPE)
    return decode(FloorCost, json.loads(done.stdout))


def _resumed(kill_at: float, subject: Subject, folder: Path, expected_bytes: int, *, digests: list[str]) -> Resumed:
    """Kill a build on the way and run it again; `digests` are those of a build that was not killed."""
    with emptied(folder / "killed") as work:
        first = run_packager(subject, work / "out", kill_at_bytes=int(kill_at * expected_bytes))
        if not first.killed:
            sys.exit(
                "error: the build ended before it could be killed\nhint: Pass a smaller --kill-at, or a larger size."
            )
        second = run_packager(subject, work / "out")
        files = list((work / "out").glob("*.gguf"))
        resumed = Resumed(
            killed_at=kill_at,
            before_bytes=first.cost.written_bytes,
            after_bytes=second.cost.written_bytes,
            output_bytes=sum(file.stat().st_size for file in files),
            after_seconds=second.cost.seconds,
            equal=_digests(second) == digests,
        )
    print(
        f"killed at {kill_at:.0%}: {first.cost.seconds:.1f} s, then {resumed.after_seconds:.1f} s; "
        f"{resumed.repeated_bytes / GB:.2f} of {resumed.output_bytes / GB:.2f} GB written again",
        flush=True,
    )
    return resumed


def _digests(finished: Finished) -> list[str]:
    return [gguf["sha256"] for gguf in json.loads(finished.out)["ggufs"]]


def _shown(title: str, cost: Cost) -> Cost:
    print(
        f"{title}  {cost.seconds:7.1f} s  {cost.cpu_seconds:7.1f} s of processor  "
        f"{cost.peak_bytes / GB:6.2f} GB memory ({cost.tree_bytes / GB:.2f} together)  "
        f"{cost.read_bytes / GB:6.2f} GB read  {cost.written_bytes / GB:6.2f} GB written  "
        f"{cost.peak_disk_bytes / GB:6.2f} GB on disk",
        flush=True,
    )
    return cost


@contextmanager
def emptied(folder: Path) -> Iterator[Path]:
    """Give a new folder, removed afterwards; what an earlier bench left under that name goes first."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
