"""Builds a small folder in three stages, killed again and again; run by test_workspace as a program of one thread.

For each moment: a child is killed there, what it published is looked at, and the same build runs again to its end. One JSON
line each: the moment, whether the child was killed, whether something published was not whole, and the digests at the end.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from packager.workspace import FileDigest, Workspace

SIZES = {"weights": (300_000, 5, 70_000), "hf": (10, 20), "report": (99,)}


@dataclass(frozen=True, kw_only=True)
class Key:
    stage: str
    inputs: tuple[FileDigest, ...]


@dataclass(frozen=True, kw_only=True)
class Files:
    files: tuple[Path, ...]


def content(stage: str, index: int) -> bytes:
    return random.Random(f"{stage}/{index}").randbytes(SIZES[stage][index])


def name(stage: str, index: int) -> str:
    return f"hf/part/{index}.bin" if stage == "hf" else f"{stage}-{index}.bin"


def build(folder: Path) -> None:
    with Workspace(folder) as workspace:
        inputs = workspace.digest_inputs((Path(__file__),))
        for stage, sizes in SIZES.items():

            def job(staging: Path, stage: str = stage, count: int = len(sizes)) -> Files:
                paths = []
                for index in range(count):
                    path = staging / name(stage, index)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content(stage, index))
                    paths.append(path)
                return Files(files=tuple(paths))

            workspace.once(stage, key=Key(stage=stage, inputs=inputs), job=job, kind=Files, title=stage)


def published(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file() and ".packager" not in path.parts]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)
    }


EXPECTED = {
    name(stage, index): hashlib.sha256(content(stage, index)).hexdigest()
    for stage, sizes in SIZES.items()
    for index in range(len(sizes))
}


def kill_at_step(step: int, folder: Path) -> None:
    """Die before the step-th file operation inside the folder."""
    steps = 0
    seen = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.scandir", "os.unlink")

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal steps
        if event in seen and str(arguments[0]).startswith(str(folder)):
            steps += 1
            if steps == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def in_child(action: object) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            action()  # type: ignore[operator]
            code = 0
        finally:
            os._exit(code)
    return pid


def tried(moment: float, folder: Path, *, by_step: bool) -> bool:
    """Build and kill; give whether the kill came before the end, and print the line."""
    shutil.rmtree(folder, ignore_errors=True)

    def disturbed() -> None:
        if by_step:
            kill_at_step(int(moment), folder)
        build(folder)

    pid = in_child(disturbed)
    if not by_step:
        time.sleep(moment)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    killed = os.WIFSIGNALED(status)
    broken = [path for path, sha256 in published(folder).items() if EXPECTED.get(path) != sha256]
    _, status = os.waitpid(in_child(lambda: build(folder)), 0)
    rest = sorted(path.name for path in (folder / ".packager").rglob("*") if path.is_file())
    done = status == 0 and published(folder) == EXPECTED
    print(json.dumps({"moment": moment, "killed": killed, "broken": broken, "done": done, "rest": rest}), flush=True)
    return killed


def main() -> None:
    folder, mode, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    if mode == "steps":
        step = 1
        while tried(step, folder, by_step=True):
            step += 1
        return
    started = time.monotonic()
    os.waitpid(in_child(lambda: build(folder)), 0)
    seconds = time.monotonic() - started
    moments = random.Random(count)
    for _ in range(count):
        tried(moments.uniform(0, seconds * 1.2), folder, by_step=False)


if __name__ == "__main__":
    main()
