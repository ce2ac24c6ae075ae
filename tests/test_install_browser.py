"""scripts/install-browser, up to where it would install a package."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "install-browser"


def install(path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/bash", SCRIPT],
        env={"PATH": str(path), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def executable(path: Path, text: str = "#!/bin/sh\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("name", ["chromium", "chromium-browser", "google-chrome"])
def test_the_one_on_path_is_taken(tmp_path: Path, name: str) -> None:
    found = executable(tmp_path / name)
    done = install(tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, str(found)), done.stderr


def test_the_one_that_was_chosen_comes_first(tmp_path: Path) -> None:
    executable(tmp_path / "bin/chromium")
    chosen = executable(tmp_path / "elsewhere/chrome")
    done = install(tmp_path / "bin", PACKAGER_TEST_BROWSER=str(chosen))
    assert (done.returncode, done.stdout.strip()) == (0, str(chosen)), done.stderr


def test_a_chosen_one_that_is_missing_is_not_replaced(tmp_path: Path) -> None:
    executable(tmp_path / "chromium")
    done = install(tmp_path, PACKAGER_TEST_BROWSER="/nowhere/chrome")
    assert (done.returncode, done.stdout) == (9, "")
    assert done.stderr.splitlines()[0] == "error: PACKAGER_TEST_BROWSER=/nowhere/chrome is no program"


def test_without_a_package_manager_it_says_what_to_do(tmp_path: Path) -> None:
    done = install(tmp_path)
    assert (done.returncode, done.stdout) == (9, "")
    assert done.stderr.splitlines() == [
        "error: no Chromium",
        "hint: install Chromium, or set PACKAGER_TEST_BROWSER=/path/to/it",
    ]


def test_without_being_root_it_names_the_command(tmp_path: Path) -> None:
    executable(tmp_path / "apt-get")
    executable(tmp_path / "id", "#!/bin/sh\necho 1000\n")
    done = install(tmp_path)
    assert (done.returncode, done.stdout) == (9, "")
    assert done.stderr.splitlines()[1] == "hint: sudo apt-get install chromium"


def test_as_root_on_debian_the_package_is_installed(tmp_path: Path) -> None:
    """apt-get is a stand-in that leaves what the package would."""
    executable(tmp_path / "id", "#!/bin/sh\necho 0\n")
    install_it = (
        f'case "$*" in install*) printf "#!/bin/sh\\n" >{tmp_path}/chromium; /bin/chmod +x {tmp_path}/chromium;; esac'
    )
    executable(tmp_path / "apt-get", f"#!/bin/sh\necho progress\n{install_it}\n")
    done = install(tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, str(tmp_path / "chromium")), done.stderr
    assert "progress" in done.stderr


def test_it_is_executable() -> None:
    assert os.access(SCRIPT, os.X_OK)
    assert os.access(SCRIPT.with_name("update-screenshot"), os.X_OK)
