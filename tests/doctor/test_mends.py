"""The command beside a finding mends it: it is run as printed, and the doctor looks again."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from packager.doctor.case import Reference
from packager.doctor.finding import Diagnosis
from tests.doctor.conftest import Doctor
from tests.doctor.planted import blob_of, create, delete, edited, flip_bytes
from tests.doctor.test_in_ollama import ALPACA, CONTEXT, LLAMA3_WITH_BOS, VICUNA, codes

Known = Callable[..., Reference]


@pytest.fixture
def mend(ollama_url: str, ollama_executable: Path, tmp_path: Path) -> Callable[[Diagnosis], str]:
    """`mend(diagnosis)`: run the one command that all findings have, and give it."""
    programs = {"ollama": [str(ollama_executable)], "packager": [sys.executable, "-m", "packager"]}
    environment = {**os.environ, "OLLAMA_HOST": ollama_url, "HOME": str(tmp_path), "NO_COLOR": "1"}
    environment["XDG_CACHE_HOME"] = str(Path.home() / ".cache")

    def run(diagnosis: Diagnosis) -> str:
        (command,) = {finding.mend for finding in diagnosis.findings}
        for part in command.split(" && "):
            program, *arguments = shlex.split(part)
            done = subprocess.run(
                [*programs[program], *arguments],
                env=environment,
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
        return command

    return run


def test_a_foreign_system_prompt(
    small: Path,
    plain: Path,
    known: Known,
    doctor: Doctor,
    ollama_url: str,
    tmp_path: Path,
    mend: Callable[[Diagnosis], str],
) -> None:
    name = create(ollama_url, "mended", plain, parameters=CONTEXT, system="You are a pirate.", license="MIT")
    found = doctor(name, known(small), tmp_path / "out")
    assert found.written == tmp_path / "out" / "Modelfile"
    assert mend(found) == f"ollama create mended:latest -f {tmp_path}/out/Modelfile"
    assert not doctor(name, known(small)).findings
    shown = httpx.post(f"{ollama_url}/api/show", json={"model": name}, trust_env=False).json()
    assert shown["license"] == "MIT"
    delete(ollama_url, name)


def test_a_foreign_system_prompt_over_one_that_detection_lost(
    small: Path, converted: Callable[[Path], Path], known: Known, doctor: Doctor, ollama_url: str, tmp_path: Path,
    mend: Callable[[Diagnosis], str],
) -> None:  # fmt: skip
    name = create(ollama_url, "mended", converted(small), parameters=CONTEXT, system="You are a pirate.")
    found = doctor(name, known(small), tmp_path / "out")
    assert codes(found) == ["SYSTEM_OTHER"]
    mend(found)
    assert not doctor(name, known(small)).findings
    delete(ollama_url, name)


def test_several_parameters_at_once_and_the_others_kept(
    small: Path,
    plain: Path,
    known: Known,
    doctor: Doctor,
    ollama_url: str,
    tmp_path: Path,
    mend: Callable[[Diagnosis], str],
) -> None:
    said = {"num_ctx": 128, "stop": ["\n", "<|im_end|>"], "num_predict": 5, "seed": 7, "temperature": 0.25}
    name = create(ollama_url, "mended", plain, parameters=said)
    found = doctor(name, known(small), tmp_path / "out")
    assert sorted(codes(found)) == ["ANSWER_CUT", "CONTEXT_SHORT", "STOP_CUTS"]
    mend(found)
    assert not doctor(name, known(small)).findings
    shown = httpx.post(f"{ollama_url}/api/show", json={"model": name}, trust_env=False).json()["parameters"]
    kept = {tuple(line.split()) for line in shown.splitlines()}
    assert kept == {("num_ctx", "4096"), ("stop", '"<|im_end|>"'), ("seed", "7"), ("temperature", "0.25")}
    delete(ollama_url, name)


@pytest.mark.parametrize("jinja", [None, VICUNA], ids=["no template in the file", "a stale one in the file"])
def test_a_wrong_template(
    jinja: str | None, small: Path, plain: Path, known: Known, doctor: Doctor, ollama_url: str, tmp_path: Path,
    mend: Callable[[Diagnosis], str],
) -> None:  # fmt: skip
    file = edited(plain, tmp_path / "planted.gguf", {"tokenizer.chat_template": jinja})
    name = create(ollama_url, "mended", file, parameters=CONTEXT, template=ALPACA)
    found = doctor(name, known(small), tmp_path / "out")
    assert codes(found) == ["WRONG_TEMPLATE"]
    mend(found)
    assert not doctor(name, known(small)).findings
    delete(ollama_url, name)


def test_a_doubled_bos(
    tiny: Callable[[str], Path], converted: Callable[[Path], Path], known: Known, doctor: Doctor, ollama_url: str,
    tmp_path: Path, mend: Callable[[Diagnosis], str],
) -> None:  # fmt: skip
    base = tiny("llama3.1")
    bare = edited(converted(base), tmp_path / "bare.gguf", {"tokenizer.chat_template": None})
    name = create(ollama_url, "mended", bare, parameters=CONTEXT, template=LLAMA3_WITH_BOS)
    found = doctor(name, known(base), tmp_path / "out")
    assert "BOS_DUP" in codes(found)
    mend(found)
    assert not doctor(name, known(base)).findings
    delete(ollama_url, name)


def test_a_corrupt_blob_without_the_adapter(
    small: Path, small_lora: Path, plain: Path, known: Known, doctor: Doctor, ollama_url: str,
    mend: Callable[[Diagnosis], str],
) -> None:  # fmt: skip
    name = create(ollama_url, "mended", plain, parameters=CONTEXT)
    flip_bytes(blob_of(ollama_url, name), "token_embd.weight")
    found = doctor(name, known(small, small_lora))
    assert codes(found) == ["BLOB_CORRUPT", "ADAPTER_MISSING", "TENSOR_DAMAGED"]
    assert "its name says" in found.findings[0].what
    assert found.findings[2].what.startswith("token_embd.weight: row ")
    command = mend(found)
    build = f"packager build {small} {small_lora} -o mended-mended --quant f16 --name mended --replace"
    assert command == f"ollama rm mended:latest && {build}"
    assert not doctor(name, known(small, small_lora)).findings
    delete(ollama_url, name)
    delete(ollama_url, "mended:f16")
