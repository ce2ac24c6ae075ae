"""scripts/install-ollama, up to where it would start to build; the rest is every other test that needs Ollama."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from packager.sources.llama_cpp_tree import LlamaCppTree

SCRIPT = Path(__file__).parents[1] / "scripts" / "install-ollama"
KEY = "ollama-0.34.0-llama.cpp-0.3.36"


def install(path: Path, cache: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT],
        env={"PATH": str(path), "PACKAGER_CACHE": str(cache), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def executable(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_the_one_on_path_is_taken(tmp_path: Path) -> None:
    found = executable(tmp_path / "bin/ollama")
    done = install(tmp_path / "bin", tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(found)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("variable", ["PACKAGER_CACHE", "XDG_CACHE_HOME", "HOME"])
def test_a_finished_one_is_taken_from_the_cache(tmp_path: Path, variable: str) -> None:
    below = {"PACKAGER_CACHE": "", "XDG_CACHE_HOME": "packager", "HOME": ".cache/packager"}[variable]
    found = executable(tmp_path / below / KEY / "bin/ollama")
    (tmp_path / "bin").mkdir()
    environment = {"PATH": str(tmp_path / "bin"), variable: str(tmp_path)}
    done = subprocess.run([sys.executable, SCRIPT], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{found}\n"


@pytest.mark.parametrize("left", [f".{KEY}.staging/result/bin/ollama", f"{KEY}/lib/ollama/llama-server"], ids=str)
def test_what_an_interrupted_run_left_is_no_result(tmp_path: Path, left: str) -> None:
    executable(tmp_path / "cache" / left)
    (tmp_path / "bin").mkdir()
    done = install(tmp_path / "bin", tmp_path / "cache")
    assert done.returncode == 9
    assert done.stdout == ""


@pytest.mark.parametrize(("there", "missing"), [((), "C compiler"), (("cc",), "C++ compiler")], ids=["none", "C only"])
def test_a_missing_compiler_is_named(tmp_path: Path, there: tuple[str, ...], missing: str) -> None:
    (tmp_path / "bin").mkdir()
    for name in there:
        executable(tmp_path / "bin" / name)
    done = install(tmp_path / "bin", tmp_path / "cache")
    assert done.returncode == 9
    cause, hint = done.stderr.splitlines()
    assert cause == f"error: no {missing} on PATH"
    assert "build-essential" in hint


def test_a_second_run_waits_for_the_first(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (tmp_path / "bin").mkdir()
    with (cache / f".{KEY}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = subprocess.Popen(
            [sys.executable, SCRIPT],
            env={"PATH": str(tmp_path / "bin"), "PACKAGER_CACHE": str(cache)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert second.stderr is not None
        assert second.stderr.readline() == "waiting for another installation to finish\n"
        found = executable(cache / KEY / "bin/ollama")  # what the first one makes
    out, _ = second.communicate(timeout=60)
    assert out == f"{found}\n"
    assert second.returncode == 0


def test_llama_perplexity_is_taken_from_the_cache_though_ollama_is_on_path(tmp_path: Path) -> None:
    executable(tmp_path / "bin/ollama")
    found = executable(tmp_path / "llama-programs-0.3.36/bin/llama-perplexity")
    environment = {"PATH": str(tmp_path / "bin"), "PACKAGER_CACHE": str(tmp_path)}
    command = [sys.executable, SCRIPT, "llama-perplexity"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{found}\n"


def test_its_folder_is_not_the_converters(tree: LlamaCppTree) -> None:
    """Both are named by llama.cpp's version: a script that replaced the other's folder would break every build."""
    (programs,) = re.findall(r'f"([\w.-]+-)\{LLAMA_CPP_PYTHON_VERSION\}"', SCRIPT.read_text())
    assert not tree.path.name.startswith(programs)


def test_another_program_is_refused() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "llama-cli"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[0] == "error: llama-cli: no such program"


def test_it_is_executable_and_names_no_host() -> None:
    assert os.access(SCRIPT, os.X_OK)
    text = SCRIPT.read_text()
    assert "https://" not in text
    assert "http://" not in text
