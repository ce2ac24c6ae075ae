from __future__ import annotations

from pathlib import Path

import pytest

from packager.sources.hub import fetch
from packager.sources.hub_origin import hub_origin
from tests.hub_server import HubServer, checkpoint_files


@pytest.mark.parametrize("name", ["hf:some-org/Packy-1B", "ms:some-org/Packy-1B"], ids=["hf", "ms"])
@pytest.mark.parametrize("own_folder", [True, False], ids=["folder", "cache"])
def test_a_fetched_folder_says_where_it_is_from(hub: HubServer, tmp_path: Path, name: str, own_folder: bool) -> None:
    hub.push("some-org/Packy-1B", checkpoint_files())
    fetched = fetch(name, output=tmp_path / "out" if own_folder else None)
    assert hub_origin(fetched.folder) == fetched.title


def test_a_folder_that_was_changed_since_says_nothing(hub: HubServer, tmp_path: Path) -> None:
    hub.push("org/model", checkpoint_files())
    folder = fetch("hf:org/model", output=tmp_path / "out").folder
    (folder / "config.json").write_text("{}")
    assert hub_origin(folder) is None


@pytest.mark.parametrize(
    "path",
    ["plain", "models--a--b/snapshots/main", "a--b/snapshots/" + "c" * 40, "models--a--b/" + "c" * 40],
    ids=["plain", "no commit", "other cache", "no snapshot"],
)
def test_another_folder_says_nothing(tmp_path: Path, path: str) -> None:
    assert hub_origin(tmp_path / path) is None
