"""Killed in the middle of the weights, the next run computes again only what came after the last mark."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from packager.artifacts import Gguf
from packager.durable import UNFINISHED
from packager.events import Advanced, Emit, Event, Noted, silent
from packager.plan import BuildRequest
from packager.quants import DEFAULT_QUANTS
from packager.single_stages import quantize

MARKS = 40  # how often a mark is made in a pass, from weights/writing.py
KILLED_AT = 0.6

CHILD = """
import os, signal, sys
from pathlib import Path
from packager.events import Advanced
from packager.weights import writing
from tests.test_resume_weights import KILLED_AT, request, quantize
writing._MARK_BYTES = (1, 1 << 30)

def emit(event):
    if isinstance(event, Advanced) and event.stage == "quantize" and event.done >= KILLED_AT * event.total:
        os.kill(os.getpid(), signal.SIGKILL)

quantize(request(*map(Path, sys.argv[1:])), emit=emit)
"""


def request(base: Path, adapter: Path, output: Path) -> BuildRequest:
    return BuildRequest(base=base, adapter=adapter, output=output, quants=DEFAULT_QUANTS, register=False, verify=False)


@pytest.fixture(scope="module")
def inputs(tiny: Callable[[str], Path], tiny_lora: Callable[[str], Path]) -> tuple[Path, Path]:
    return tiny("llama3.1"), tiny_lora("llama3.1")


@pytest.fixture(scope="module")
def expected(inputs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of what an undisturbed run writes."""
    return digests(quantize(request(*inputs, tmp_path_factory.mktemp("whole")), emit=lambda event: None))


@pytest.fixture(scope="module")
def killed_once(inputs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was killed when a part of its bytes was written."""
    folder = tmp_path_factory.mktemp("killed") / "out"
    command = [sys.executable, "-c", CHILD, *map(str, (*inputs, folder))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not list(folder.glob("*.gguf"))
    return folder


@pytest.fixture
def killed(killed_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(killed_once, tmp_path / "out"))


def digests(ggufs: tuple[Gguf, ...]) -> dict[str, str]:
    return {gguf.path.name: gguf.sha256 for gguf in ggufs}


def continued(inputs: tuple[Path, Path], folder: Path, expected: dict[str, str]) -> float:
    """Run again, and give which part of all bytes was there already."""
    events: list[Event] = []
    assert digests(quantize(request(*inputs, folder), emit=events.append)) == expected
    assert not (folder / UNFINISHED).exists()
    advanced = [event for event in events if isinstance(event, Advanced) and event.stage == "quantize"]
    said = [event.text for event in events if isinstance(event, Noted) and "continues what was" in event.text]
    assert bool(said) == (advanced[0].done > 0.05 * advanced[0].total)
    return advanced[0].done / advanced[0].total


def test_little_is_computed_again(inputs: tuple[Path, Path], killed: Path, expected: dict[str, str]) -> None:
    there = continued(inputs, killed, expected)
    assert KILLED_AT - 2 / MARKS - 0.02 < there < KILLED_AT + 2 / MARKS


@pytest.mark.parametrize("quant", ["F16", "Q4_K_M"])
def test_what_is_damaged_is_computed_again(
    quant: str, inputs: tuple[Path, Path], killed: Path, expected: dict[str, str]
) -> None:
    (partial,) = (killed / UNFINISHED).rglob(f"*-{quant}.gguf.partial")
    with partial.open("r+b") as file:
        file.seek(partial.stat().st_size * 7 // 10)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    assert 0.05 < continued(inputs, killed, expected) < 0.5


def test_a_file_that_had_its_name_already_is_continued(
    inputs: tuple[Path, Path], killed: Path, expected: dict[str, str]
) -> None:
    """Killed while the files get their names, which happens one after the other."""
    (partial,) = (killed / UNFINISHED).rglob("*-F16.gguf.partial")
    partial.rename(partial.with_suffix(""))
    assert continued(inputs, killed, expected) > 0.5


def test_another_header_begins_anew(
    inputs: tuple[Path, Path], killed: Path, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the model card changed, which is no part of the key."""
    from packager.weights import converter

    metadata = converter.Conversion.metadata
    monkeypatch.setattr(converter.Conversion, "metadata", lambda self, name: metadata(self, "another name"))
    events: list[Event] = []
    ggufs = quantize(request(*inputs, killed), emit=events.append)
    assert set(digests(ggufs).values()).isdisjoint(expected.values())
    assert not any(isinstance(event, Noted) and "continues" in event.text for event in events)


def test_the_kept_checkpoint_is_complete_after_a_kill(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    """What the first run read is not read again for the GGUF files, and yet has to be in the checkpoint."""

    def made(folder: Path, kill: Emit) -> dict[str, bytes]:
        quantize(replace(request(*inputs, folder), keep_hf=True), emit=kill)
        return {path.name: path.read_bytes() for path in (*folder.glob("*.gguf"), *(folder / "hf").iterdir())}

    def kill(event: Event) -> None:
        if isinstance(event, Advanced) and event.stage == "quantize" and event.done >= KILLED_AT * event.total:
            raise KeyboardInterrupt

    events: list[Event] = []
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path / "killed", kill)
    assert list((tmp_path / "killed" / UNFINISHED).rglob("*.gguf.partial"))
    assert made(tmp_path / "killed", events.append) == made(tmp_path / "whole", silent)
    assert any(isinstance(event, Noted) and "continues what was" in event.text for event in events)
