"""The bench itself: one real run of a tiny shape, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from packager.sources.llama_cpp_tree import LlamaCppTree
from scripts.benchmark import rounds
from scripts.benchmark.process_tree import CommandFailed, Finished
from scripts.benchmark.rounds import Asked, measure_size, needed_disk_bytes
from scripts.benchmark.shapes import SHAPES
from scripts.benchmark.sides import ROOT, Subject, run_llamafactory
from tests.scripts.bench_sample import cost

QUANTS = ("f16", "q8_0", "q4_k_m")


def asked(size: str, work: Path, **changes: object) -> Asked:
    values = {
        "shape": SHAPES[size], "tokenizer": work, "outputs": QUANTS, "runs": 1, "chain": True, "llamafactory": None,
        "kill_at": None, "tree": work, "work": work,
    }  # fmt: skip
    return Asked(**(values | changes))


def bench(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scripts.benchmark.main", "--tokenizers", "nowhere", *arguments],
        cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_a_tiny_run_measures_both_sides_and_the_floor(
    smollm2: Path, tree: LlamaCppTree, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Bytes are the same every time, so they are what is checked; seconds are not."""
    result = measure_size(asked("tiny", tmp_path, tokenizer=smollm2, tree=tree.path))
    (run,) = result.rounds
    assert (result.size, result.parameters, result.outputs) == ("tiny", SHAPES["tiny"].parameters, QUANTS)
    parameters = result.parameters
    outputs = parameters * (16 + 8.5 + 4.5) / 8
    assert outputs < run.packager.written_bytes < 1.5 * outputs
    assert outputs < run.packager.peak_disk_bytes < 1.5 * outputs
    assert result.prediction.peak_disk_bytes == pytest.approx(run.packager.peak_disk_bytes, rel=0.3)
    assert run.chain is not None
    assert run.chain.written_bytes > outputs + 2 * parameters  # the merged checkpoint too
    assert run.chain.peak_disk_bytes > run.packager.peak_disk_bytes + 1.9 * parameters
    assert run.packager.read_bytes > 2 * parameters
    assert min(run.chain.cpu_seconds, run.packager.cpu_seconds, run.floor.cpu_seconds) > 0
    assert run.llamafactory is None
    assert result.resumed is None
    assert list(tmp_path.iterdir()) == []
    shown = capfd.readouterr().out
    assert [line.split("  ")[1].strip() for line in shown.splitlines() if line.startswith("run 1")] == [
        "usual chain", "packager", "kernels alone",
    ]  # fmt: skip


@pytest.mark.parametrize("sha256", ["1" * 64, "2" * 64], ids=["the same bytes", "other bytes"])
def test_what_a_kill_cost_is_what_both_runs_wrote_beyond_the_files(
    sha256: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for packager that wrote 600 bytes before the kill and 500 after it, for a file of 1000."""
    kills: list[int | None] = []

    def run(_: object, output: Path, *, kill_at_bytes: int | None = None) -> Finished:
        kills.append(kill_at_bytes)
        output.mkdir(exist_ok=True)
        (output / "a.gguf").write_bytes(bytes(1000))
        written = replace(cost(7, 0), written_bytes=500 if kill_at_bytes is None else 600)
        out = json.dumps({"ggufs": [{"sha256": sha256}]})
        return Finished(cost=written, out=out, killed=kill_at_bytes is not None)

    monkeypatch.setattr(rounds, "run_packager", run)
    resumed = rounds._resumed(0.6, object(), tmp_path, 2000, digests=["1" * 64])
    assert kills == [1200, None]
    assert (resumed.repeated_bytes, resumed.output_bytes, resumed.after_seconds) == (100, 1000, 7)
    assert resumed.equal is (sha256 == "1" * 64)


def test_a_build_that_ends_before_the_kill_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished = Finished(cost=cost(1, 0), out="", killed=False)
    monkeypatch.setattr(rounds, "run_packager", lambda *_, **__: finished)
    with pytest.raises(SystemExit, match="ended before it could be killed"):
        rounds._resumed(0.9, object(), tmp_path, 100, digests=[])
    assert list(tmp_path.iterdir()) == []


def test_llamafactory_is_asked_for_its_own_export(tmp_path: Path) -> None:
    """A stand-in for its program that shows how it was called."""
    program = tmp_path / "llamafactory-cli"
    program.write_text('#!/bin/sh\necho "$1" >&2\ncat "$2" >&2\nexit 4\n')
    program.chmod(0o755)
    subject = Subject(
        shape=SHAPES["135M"], base=Path("/b"), lora=Path("/l"), outputs=QUANTS, tree=Path("/t"), llamafactory=program
    )
    with pytest.raises(CommandFailed) as failure:
        run_llamafactory(subject, tmp_path / "out")
    text = str(failure.value)
    assert "status 4\nexport\n" in text
    wanted = {
        "model_name_or_path": "/b", "adapter_name_or_path": "/l", "template": "smollm2", "finetuning_type": "lora",
        "export_dir": f"{tmp_path}/out/merged", "export_device": "cpu",
    }  # fmt: skip
    for key, value in wanted.items():
        assert f'"{key}": "{value}"' in text


@pytest.mark.parametrize(
    ("changes", "gigabytes"),
    [
        ({"chain": False}, 15.2 + 15.2 + 8.1 + 4.6),
        ({"chain": True}, 15.2 + 15.2 + 8.1 + 4.6 + 15.2),
        ({"chain": False, "outputs": ("q4_k_m",)}, 15.2 + 4.6),
        ({"chain": True, "outputs": ("q4_k_m",)}, 15.2 + 4.6 + 2 * 15.2),
    ],
    ids=["packager", "the chain keeps a merged checkpoint", "one file", "the chain makes f16 on the way"],
)
def test_the_disk_needed_covers_what_is_written(changes: dict[str, object], gigabytes: float, tmp_path: Path) -> None:
    """7B: 15.2 GB of base, 15.2 of f16, 8.1 of q8_0 and 4.6 of q4_k_m: an upper bound, and not twice as much."""
    assert gigabytes < needed_disk_bytes(asked("7B", tmp_path, **changes)) / 1e9 < 1.1 * gigabytes + 1.5


def test_a_size_that_does_not_fit_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = rounds.shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=10**9))
    with pytest.raises(SystemExit, match=r"error: 7B needs \d\d\.\d GB in .*, 1\.0 GB are free\nhint: "):
        measure_size(asked("7B", tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sizes", "3B"), "'3B' is none of tiny, 135M, 0.5B, 1.5B, 7B"),
        (("--sides", "chain"), "packager is what the others are compared with"),
        (("--sides", "packager,ollama"), "'ollama' is none of chain, llamafactory, packager"),
        (("--kill-at", "1.5"), "1.5 is not between 0 and 1"),
    ],
    ids=["a size", "no packager", "a side", "a fraction"],
)
def test_what_it_does_not_know_is_named(arguments: tuple[str, ...], message: str) -> None:
    done = bench(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_rendering_without_uv_says_what_to_run() -> None:
    done = bench("--render", PATH="/nowhere", UV="")
    assert done.returncode == 1
    assert done.stderr == "error: uv is not on PATH\nhint: Run scripts/bench --render, which finds it.\n"


def test_the_bench_itself_is_small() -> None:
    """A child's peak is at least its parent's: with torch in the bench, every side would have a GB."""
    code = "import scripts.benchmark.main; print(open('/proc/self/status').read())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    (peak,) = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("VmHWM:")]
    assert int(peak) < 100_000  # kB


def test_above_3b_the_other_sides_are_run_only_by_name() -> None:
    from scripts.benchmark.main import _runs_here

    assert _runs_here("chain", SHAPES["1.5B"], None)
    assert not _runs_here("chain", SHAPES["7B"], None)
    assert _runs_here("chain", SHAPES["7B"], ("chain", "packager"))
    assert not _runs_here("chain", SHAPES["0.5B"], ("packager",))


def test_it_is_executable() -> None:
    assert os.access(ROOT / "scripts" / "bench", os.X_OK)
