"""Loads the packages of the extra `[eval]`, quietly."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

from packager.errors import ToolMissing

EXTRA_HINT = 'Install it with: pip install "ollama-packager[eval]"'


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Translate a missing package, and keep what Python says of the packages' own source off the terminal.

    jieba and rouge_chinese write regular expressions in plain strings, which newer Pythons warn of when they compile them;
    jieba looks for its dictionary with pkg_resources, which setuptools warns of.

    Raises:
        ToolMissing: A package that the block imports is not installed.
    """
    with warnings.catch_warnings():
        for category in (DeprecationWarning, SyntaxWarning, UserWarning):
            warnings.filterwarnings("ignore", r".*(invalid escape sequence|pkg_resources)", category)
        try:
            yield
        except ModuleNotFoundError as error:
            raise ToolMissing(
                f"the metrics need the package {(error.name or '').partition('.')[0]}, which is not installed",
                hint=EXTRA_HINT,
            ) from error
