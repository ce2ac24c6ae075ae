from __future__ import annotations

import sys
from pathlib import Path

import pytest

from packager.user_cache import cache_folder


def test_the_variable_names_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PACKAGER_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path


@pytest.mark.parametrize("variable", [None, ""], ids=["unset", "empty"])
def test_without_it_the_platform_decides(variable: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PACKAGER_CACHE", raising=False)
    if variable is not None:
        monkeypatch.setenv("PACKAGER_CACHE", variable)
    expected = tmp_path / "Library" / "Caches" if sys.platform == "darwin" else tmp_path
    assert cache_folder() == expected / "packager"
