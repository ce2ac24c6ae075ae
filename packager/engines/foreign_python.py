"""The Python of another environment: vLLM and LMDeploy each bring a torch of their own and cannot live in this one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from packager.errors import ToolMissing
from packager.user_cache import cache_folder


def find_python(package: str, variable: str) -> Path:
    """Give the interpreter of the environment that a package is installed in.

    The variable decides; then the program of that name on PATH; then what `scripts/install-engines` made.

    Args:
        package: Name of the package and of its program, for example `vllm`.
        variable: Environment variable that names the program, or the environment's folder.

    Raises:
        ToolMissing: It is not installed, or the variable names something else.
    """
    named = os.environ.get(variable)
    if named:
        found = _beside(Path(named))
        if found is None:
            raise ToolMissing(
                f"{variable}={named}: no Python environment with {package}",
                hint=f"Set it to the folder of the environment, or to the program {package} in it.",
            )
        return found
    program = shutil.which(package)
    if program is not None and (found := _beside(Path(program))):
        return found
    for folder in sorted(cache_folder().glob(f"{package}-*"), reverse=True):
        if found := _beside(folder):
            return found
    raise ToolMissing(
        f"{package} is not installed",
        hint=f"python -m venv {package}-env && {package}-env/bin/pip install {package}, then set {variable}={package}-env; "
        f"or scripts/install-engines {package}",
    )


def _beside(place: Path) -> Path | None:
    """Give the interpreter of an environment's folder, or the one that a program is run by."""
    if place.is_file() and (named := _interpreter(place)):
        return named
    folders = (place / "bin", place / "Scripts") if place.is_dir() else (place.resolve().parent, place.parent)
    for folder in folders:
        for name in ("python", "python3", "python.exe"):
            if (folder / name).is_file() and any(folder.parent.glob("**/site-packages")):
                return folder / name
    return None


def _interpreter(program: Path) -> Path | None:
    """Give the Python that a script names in its first line."""
    with program.open("rb") as file:
        line = file.readline(1024)
    path = Path(os.fsdecode(line[2:].strip()))
    return path if line.startswith(b"#!") and path.name.startswith("python") and path.is_file() else None
