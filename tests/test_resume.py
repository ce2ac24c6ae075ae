"""Killed at any point, the same command continues and gives the same digests.

PACKAGER_KILLS sets how many moments are tried (4 by default), PACKAGER_SEED which ones.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.run_packager import run_packager

KILLS = int(os.environ.get("PACKAGER_KILLS", "4"))
SEED = int(os.environ.get("PACKAGER_SEED", "0"))


def _arguments(base: Path, adapter: Path, out: Path) -> list[str]:
    return ["build", str(base), str(adapter), "-o", str(out), "--no-register", "--no-verify"]


def published(folder: Path) -> dict[str, str]:
    """Digest of every file a user sees in a build folder."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def whole(smollm2: Path, smollm2_lora: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], float]:
    """What an undisturbed build publishes, and the seconds it takes."""
    out = tmp_path_factory.mktemp("whole")
    started = time.monotonic()
    finished = run_packager(*_arguments(smollm2, smollm2_lora, out))
    assert finished.code == 0, finished.err
    return published(out), time.monotonic() - started


@pytest.mark.parametrize("index", range(KILLS), ids=lambda index: f"kill-{index}")
def test_a_killed_build_continues_to_the_same_digests(
    index: int, smollm2: Path, smollm2_lora: Path, whole: tuple[dict[str, str], float], tmp_path: Path
) -> None:
    digests, seconds = whole
    moment = random.Random(f"{SEED}/{index}").uniform(0, seconds)
    arguments = _arguments(smollm2, smollm2_lora, tmp_path / "out")
    child = subprocess.Popen(
        [sys.executable, "-m", "packager", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        child.wait(timeout=moment)
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGKILL)
        child.wait()
    for path in (tmp_path / "out").glob("*.gguf"):  # whatever is published is whole, also before the second run
        assert hashlib.sha256(path.read_bytes()).hexdigest() == digests[path.name]
    finished = run_packager(*arguments)
    assert finished.code == 0, finished.err
    assert published(tmp_path / "out") == digests
    assert not list((tmp_path / "out" / ".packager").rglob("*.partial"))


def test_a_finished_build_does_nothing_again(smollm2: Path, smollm2_lora: Path, tmp_path: Path) -> None:
    arguments = _arguments(smollm2, smollm2_lora, tmp_path / "out")
    arguments[arguments.index("--no-register")] = "--quant=q8_0"
    assert run_packager(*arguments, ollama="127.0.0.1:9").code == 0
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.gguf")}
    again = run_packager(*arguments, ollama="127.0.0.1:9")
    assert again.code == 0
    assert "quantize: done before, still valid" in again.err
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.gguf")} == times


def test_a_changed_adapter_is_built_again(smollm2: Path, smollm2_lora: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    adapter = tmp_path / "adapter"
    shutil.copytree(smollm2_lora, adapter)
    arguments = [*_arguments(smollm2, adapter, tmp_path / "out"), "--quant", "q8_0"]
    assert run_packager(*arguments).code == 0
    first = published(tmp_path / "out")
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file({name: tensor * 2 for name, tensor in tensors.items()}, adapter / "adapter_model.safetensors")
    again = run_packager(*arguments)
    assert again.code == 0
    assert "quantize: done before" not in again.err
    changed = {name for name, sha256 in published(tmp_path / "out").items() if sha256 != first[name]}
    assert {Path(name).suffix for name in changed} == {".gguf"}


def test_a_damaged_output_is_noticed_and_made_again(smollm2: Path, smollm2_lora: Path, tmp_path: Path) -> None:
    arguments = [*_arguments(smollm2, smollm2_lora, tmp_path / "out"), "--quant", "q4_k_m"]
    assert run_packager(*arguments).code == 0
    first = published(tmp_path / "out")
    gguf = next((tmp_path / "out").glob("*.gguf"))
    with gguf.open("r+b") as file:
        file.seek(gguf.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    again = run_packager(*arguments)
    assert again.code == 0
    assert "quantize: done before" not in again.err
    assert published(tmp_path / "out") == first
