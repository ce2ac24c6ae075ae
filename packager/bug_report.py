"""A file that tells whoever mends the program what happened, written when an error is none of the documented ones."""

from __future__ import annotations

import platform
import sys
import tempfile
import traceback
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("ollama-packager", "llama-cpp-python", "gguf", "transformers", "peft", "torch", "ollama", "click", "jinja2")


def write_bug_report(error: BaseException) -> Path:
    """Write the traceback, the versions and the command's name (not its arguments) to a new temporary file."""
    lines = [f"{name} {_version(name)}" for name in PACKAGES]
    lines += [f"python {platform.python_version()} on {platform.system()} {platform.machine()}", ""]
    lines += [f"command: packager {' '.join(sys.argv[1:2])}", "", *traceback.format_exception(error)]
    with tempfile.NamedTemporaryFile(
        "w", prefix="packager-bug-", suffix=".txt", delete=False, encoding="utf-8"
    ) as report:
        report.write("\n".join(lines))
    return Path(report.name)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
