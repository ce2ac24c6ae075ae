from __future__ import annotations

from pathlib import Path

import pytest

from packager.codec import decode, encode
from packager.errors import HubFailed, InputInvalid, IntegrityMismatch, Usage
from packager.events import Event
from packager.sources.hub import Fetched, fetch
from packager.sources.hub_records import PRIVATE, RECEIPT, read_receipt
from packager.sources.hub_wire import ATTEMPTS
from tests.hub_server import Fault, HubServer, checkpoint_files, sha256
from tests.sources.conftest import Caches
from tests.sources.test_huggingface import FIRST, flipped, held, needed, notes

NAMES = ("hf:org/model", "ms:org/model")
SECOND = "model-00002-of-00002.safetensors"


@pytest.fixture(params=NAMES, ids=["hf", "ms"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def weights_paths(hub: HubServer, files: dict[str, bytes]) -> list[str]:
    """What was asked for of the two shards, from whichever hub."""
    wanted = (
        f"/cdn/{sha256(files[FIRST])}",
        f"/cdn/{sha256(files[SECOND])}",
        f"FilePath={FIRST}",
        f"FilePath={SECOND}",
    )
    return [path for path in (*hub.paths(), *hub.paths("cdn")) if path.endswith(wanted)]


def test_a_folder_gets_the_files_and_the_caches_stay_empty(
    hub: HubServer, caches: Caches, name: str, tmp_path: Path
) -> None:
    files = checkpoint_files()
    commit = hub.push("org/model", files)
    fetched = fetch(name, output=tmp_path / "out")
    assert fetched.folder == tmp_path / "out"
    assert held(fetched.folder) == needed(files)
    receipt = read_receipt(fetched.folder)
    assert receipt is not None
    assert (receipt.source, receipt.revision) == (name, commit)
    assert sorted(receipt.files, key=lambda item: item.name) == list(fetched.files)
    assert not caches.hf.exists()
    assert not caches.ms.exists()
    assert {path.name for path in (fetched.folder / PRIVATE).iterdir()} == {"lock", RECEIPT}


def test_what_it_gives_survives_json(hub: HubServer, tmp_path: Path) -> None:
    hub.push("org/model", checkpoint_files())
    fetched = fetch("hf:org/model", output=tmp_path / "out")
    assert decode(Fetched, encode(fetched)) == fetched


def test_a_second_time_a_folder_is_checked_and_nothing_is_fetched(hub: HubServer, name: str, tmp_path: Path) -> None:
    files = checkpoint_files()
    hub.push("org/model", files)
    fetched = fetch(name, output=tmp_path / "out")
    hub.requests.clear()
    assert fetch(name, output=tmp_path / "out") == fetched
    assert weights_paths(hub, files) == []
    hub.requests.clear()
    assert fetch(name, output=tmp_path / "out", offline=True) == fetched
    assert hub.requests == []


def test_a_folder_is_filled_from_the_cache_without_a_network(hub: HubServer, name: str, tmp_path: Path) -> None:
    files = checkpoint_files()
    commit = hub.push("org/model", files)
    cached = fetch(name)
    hub.requests.clear()
    fetched = fetch(name, output=tmp_path / "out", offline=True)
    assert (held(fetched.folder), fetched.revision) == (needed(files), commit)
    assert not any(path.is_symlink() for path in fetched.folder.rglob("*"))
    assert fetched.files == cached.files
    assert hub.requests == []


def test_online_the_cache_saves_the_download(hub: HubServer, name: str, tmp_path: Path) -> None:
    files = checkpoint_files()
    hub.push("org/model", files)
    fetch(name)
    hub.requests.clear()
    assert held(fetch(name, output=tmp_path / "out").folder) == needed(files)
    assert weights_paths(hub, files) == []


def test_a_damaged_file_of_the_cache_is_not_copied(hub: HubServer, name: str, tmp_path: Path) -> None:
    files = checkpoint_files()
    hub.push("org/model", files)
    (fetch(name).folder / FIRST).resolve().write_bytes(flipped(files[FIRST]))
    assert held(fetch(name, output=tmp_path / "out").folder) == needed(files)
    with pytest.raises(IntegrityMismatch, match=FIRST):
        fetch(name, output=tmp_path / "other", offline=True)
    assert not (tmp_path / "other" / "config.json").exists()


def test_another_commit_replaces_the_files_of_the_last_one(hub: HubServer, name: str, tmp_path: Path) -> None:
    old = checkpoint_files() | {"merges.txt": b"only in the old one"}
    hub.push("org/model", old)
    fetch(name, output=tmp_path / "out")
    new = checkpoint_files(600_000) | {"vocab.json": b"{}"}
    commit = hub.push("org/model", new)
    fetched = fetch(name, output=tmp_path / "out")
    assert (held(fetched.folder), fetched.revision) == (needed(new), commit)


def test_a_file_of_somebody_else_is_not_replaced(hub: HubServer, name: str, tmp_path: Path) -> None:
    files = checkpoint_files()
    hub.push("org/model", files)
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text("mine")
    with pytest.raises(InputInvalid, match=r"config\.json: exists, and packager did not fetch it") as caught:
        fetch(name, output=out)
    assert "-o DIR" in caught.value.hint
    assert held(out) == {"config.json": b"mine"}
    (out / "config.json").write_bytes(files["config.json"])
    (out / "notes.txt").write_text("mine too")
    assert held(fetch(name, output=out).folder) == needed(files) | {"notes.txt": b"mine too"}


def test_a_folder_that_is_not_whole_yet_shows_no_model(
    hub: HubServer, name: str, tmp_path: Path, naps: list[float]
) -> None:
    files = checkpoint_files()
    hub.push("org/model", files)
    where = f"FilePath={SECOND}" if name.startswith("ms") else f"cdn /cdn/{sha256(files[SECOND])}"
    hub.faults = [Fault(path=where, cut=0, times=ATTEMPTS)]
    with pytest.raises(HubFailed, match="gave up"):
        fetch(name, output=tmp_path / "out")
    assert held(tmp_path / "out") == {}
    with pytest.raises(HubFailed, match="not in the cache"):
        fetch(name, output=tmp_path / "out", offline=True)
    hub.requests.clear()
    assert held(fetch(name, output=tmp_path / "out").folder) == needed(files)
    assert all(path.endswith((sha256(files[SECOND]), SECOND)) for path in weights_paths(hub, files))


@pytest.mark.parametrize("at", range(6))
def test_killed_while_files_are_moved_into_place_the_next_run_finishes(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    old, new = checkpoint_files(), checkpoint_files(600_000) | {"config.json": b'{"new": 1}', "README.md": b"new"}
    hub.push("org/model", old)
    fetch("hf:org/model", output=tmp_path / "out")
    hub.push("org/model", new)
    replace, count = Path.replace, [0]

    def killed(self: Path, target: Path) -> Path:
        if target.name == RECEIPT or (self.parent.name == "fetch" and target.parent.name != "fetch"):
            if count[0] == at:
                raise KeyboardInterrupt
            count[0] += 1
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):  # four files move, between two writes of the receipt
        fetch("hf:org/model", output=tmp_path / "out")
    monkeypatch.setattr(Path, "replace", replace)
    assert held(fetch("hf:org/model", output=tmp_path / "out").folder) == needed(new)


def test_the_wrong_name_is_a_usage_error() -> None:
    with pytest.raises(Usage, match="no name on a hub"):
        fetch("not a name")


def test_files_that_are_equal_are_all_there(hub: HubServer, name: str, tmp_path: Path) -> None:
    same = {"vocab.json": b"{}", "added_tokens.json": b"{}", "special_tokens_map.json": b"", "merges.txt": b""}
    files = checkpoint_files() | same
    hub.push("org/model", files)
    assert held(fetch(name, output=tmp_path / "out").folder) == needed(files)
    assert held(fetch(name).folder) == needed(files)


def test_notes_are_empty_when_nothing_happened(hub: HubServer, name: str) -> None:
    hub.push("org/model", checkpoint_files())
    events: list[Event] = []
    fetch(name, emit=events.append)
    assert notes(events) == []


def test_offline_every_branch_is_where_it_was_last(hub: HubServer, name: str) -> None:
    old, new = checkpoint_files(), checkpoint_files(600_000)
    first = hub.push("org/model", old)
    fetch(name)
    second = hub.push("org/model", new, "v2")
    assert fetch(f"{name}@v2").revision == second
    assert fetch(name, offline=True).revision == first
    assert held(fetch(f"{name}@v2", offline=True).folder) == needed(new)
    hub.push("org/model", new)
    fetch(name)
    assert fetch(name, offline=True).revision == second
    hub.push("org/model", old)
    assert fetch(name).revision == first
    assert fetch(name, offline=True).revision == first


def test_a_commit_that_changes_nothing_needed_is_named_all_the_same(hub: HubServer, name: str) -> None:
    files = checkpoint_files()
    hub.push("org/model", files)
    fetch(name)
    commit = hub.push("org/model", files | {"pytorch_model.bin": b"changed"})
    hub.requests.clear()
    fetched = fetch(name)
    assert (fetched.revision, held(fetched.folder)) == (commit, needed(files))
    assert fetched.folder.name == commit
    assert weights_paths(hub, files) == []
    assert fetch(name, offline=True) == fetched


def test_a_damaged_commit_of_the_cache_is_fetched_again(hub: HubServer, name: str) -> None:
    files = checkpoint_files()
    hub.push("org/model", files)
    fetched = fetch(name)
    (fetched.folder / FIRST).resolve().write_bytes(flipped(files[FIRST]))
    assert held(fetch(f"{name}@{fetched.revision}").folder) == needed(files)


def test_a_hub_that_gives_no_digests_is_said_to_be_unchecked(hub: HubServer, name: str, tmp_path: Path) -> None:
    files = checkpoint_files()
    hub.push("org/model", files)
    hub.gives_digests = False
    events: list[Event] = []
    assert held(fetch(name, emit=events.append, output=tmp_path / "out").folder) == needed(files)
    assert notes(events) == ["not checked: the hub gives no digest of 11 of 11 files, such as config.json"]
    assert held(fetch(name).folder) == needed(files)
    assert held(fetch(name, offline=True).folder) == needed(files)
