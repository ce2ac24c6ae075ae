"""What transformers and peft raise and print while they load, as this program's own errors and nothing else."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

from packager.errors import InputInvalid, ToolMissing


def one_line(error: Exception) -> str:
    """Give an exception's name and the first line of its text, at most 200 characters."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """Translate a missing package; the reference is part of the `[build]` extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ToolMissing(
            f"the Python package {error.name} is not installed: the reference model cannot run",
            hint='Install it with: pip install "ollama-packager[build]"',
        ) from error


@contextlib.contextmanager
def named(folder: Path) -> Iterator[None]:
    """Translate what transformers and peft raise about a folder into one line that names it."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise InputInvalid(
            f"{folder}: transformers cannot load it ({one_line(error)})",
            hint=f"Check the model folder with: packager plan {folder} -o DIR",
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' warnings, log lines and progress bars off the terminal while they load."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
