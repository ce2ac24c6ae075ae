from __future__ import annotations

from pathlib import Path

import pytest

from packager.engines.foreign_python import find_python
from packager.errors import ToolMissing


def environment(folder: Path, program: str) -> Path:
    """Make what an environment looks like; nothing in it is ever run."""
    (folder / "lib" / "python3.11" / "site-packages").mkdir(parents=True)
    (folder / "bin").mkdir()
    for name in ("python", program):
        (folder / "bin" / name).write_text("#!/bin/sh\n")
        (folder / "bin" / name).chmod(0o755)
    return folder


@pytest.fixture(autouse=True)
def nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setenv("PACKAGER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PACKAGER_VLLM", raising=False)


def test_the_variable_names_the_folder_or_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = environment(tmp_path / "mine", "vllm")
    for place in (folder, folder / "bin" / "vllm"):
        monkeypatch.setenv("PACKAGER_VLLM", str(place))
        assert find_python("vllm", "PACKAGER_VLLM") == folder / "bin" / "python"


def test_then_the_program_on_the_path_then_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = environment(tmp_path / "cache" / "vllm-0.32.0", "vllm")
    assert find_python("vllm", "PACKAGER_VLLM") == cached / "bin" / "python"
    folder = environment(tmp_path / "mine", "vllm")
    monkeypatch.setenv("PATH", str(folder / "bin"))
    assert find_python("vllm", "PACKAGER_VLLM") == folder / "bin" / "python"


def test_a_program_elsewhere_names_its_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = environment(tmp_path / "mine", "vllm")
    program = tmp_path / "bin" / "vllm"
    program.parent.mkdir()
    program.write_text(f"#!{folder}/bin/python\nimport vllm\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    assert find_python("vllm", "PACKAGER_VLLM") == folder / "bin" / "python"


def test_what_is_not_there_is_said_with_the_way_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ToolMissing, match="vllm is not installed") as caught:
        find_python("vllm", "PACKAGER_VLLM")
    assert "PACKAGER_VLLM" in caught.value.hint
    monkeypatch.setenv("PACKAGER_VLLM", str(tmp_path))
    with pytest.raises(ToolMissing, match=str(tmp_path)):
        find_python("vllm", "PACKAGER_VLLM")
