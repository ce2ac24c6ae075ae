from __future__ import annotations

from pathlib import Path

import pytest

from packager.errors import HubFailed, IntegrityMismatch, UnsafeInput
from packager.events import Event, StageFinished
from packager.sources.hub import fetch
from packager.sources.hub_wire import ATTEMPTS
from tests.hub_server import Fault, HubServer, checkpoint_files, sha256
from tests.sources.conftest import Caches
from tests.sources.test_huggingface import FIRST, flipped, held, leftovers, needed, notes

NAME = "ms:org/model"


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def asked_for(hub: HubServer, path: str) -> list[str | None]:
    """The ranges in which a file was asked for."""
    return [seen.headers.get("range") for seen in hub.requests if seen.path.endswith(f"FilePath={path}")]


def test_every_needed_byte_arrives_from_one_commit(hub: HubServer, caches: Caches) -> None:
    files = checkpoint_files()
    hub.push("org/model", {"README.md": files["README.md"]}, "older")
    commit = hub.push("org/model", files)
    fetched = fetch(NAME)
    assert held(fetched.folder) == needed(files)
    assert (fetched.source, fetched.revision) == (NAME, commit)
    assert {item.name: item.sha256 for item in fetched.files} == {p: sha256(d) for p, d in needed(files).items()}
    assert all(f"Revision={commit}&" in path for path in hub.paths() if "FilePath" in path)
    assert fetched.folder == caches.ms / "models" / "org--model" / "snapshots" / commit
    assert leftovers(caches.ms) == []


@pytest.mark.parametrize("again", [{"offline": True}, {}], ids=["offline", "online"])
def test_a_second_time_nothing_is_downloaded(hub: HubServer, again: dict[str, bool]) -> None:
    hub.push("org/model", checkpoint_files())
    fetched = fetch(NAME)
    hub.requests.clear()
    events: list[Event] = []
    assert fetch(NAME, emit=events.append, **again) == fetched
    assert not any("FilePath" in path for path in hub.paths())
    assert bool(hub.paths()) is not again.get("offline", False)
    assert isinstance(events[-1], StageFinished)
    assert events[-1].reused
    assert notes(events) == []


LAYOUTS = {
    "snapshots": "models/org--model.v1/snapshots/master",
    "models": "models/org/model___v1",
    "hub models": "hub/models/org/model___v1",
    "plain": "org/model.v1",
    "hub": "hub/org/model.v1",
    "unescaped": "models/org/model.v1",
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_offline_every_layout_of_modelscopes_tools_is_found(hub: HubServer, caches: Caches, layout: str) -> None:
    folder = write(caches.ms / layout, checkpoint_files())
    events: list[Event] = []
    fetched = fetch("ms:org/model.v1", offline=True, emit=events.append)
    assert (fetched.folder, fetched.revision) == (folder, "master")
    assert {item.name for item in fetched.files} == set(needed(checkpoint_files()))
    assert notes(events) == [f"not checked: of 11 of 11 files in {folder} no digest is recorded"]
    assert hub.requests == []


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_online_a_folder_of_modelscopes_tools_is_checked_and_used_as_it_is(
    hub: HubServer, caches: Caches, layout: str
) -> None:
    folder = write(caches.ms / layout, checkpoint_files())
    commit = hub.push("org/model.v1", checkpoint_files())
    events: list[Event] = []
    fetched = fetch("ms:org/model.v1", emit=events.append)
    assert (fetched.folder, fetched.revision) == (folder, commit)
    assert notes(events) == []
    assert not any("FilePath" in path for path in hub.paths())


def test_online_a_folder_with_other_bytes_is_left_alone_and_its_good_files_are_copied(
    hub: HubServer, caches: Caches
) -> None:
    files = checkpoint_files()
    folder = write(caches.ms / "hub/models/org/model", files | {FIRST: flipped(files[FIRST])})
    hub.push("org/model", files)
    fetched = fetch(NAME)
    assert fetched.folder != folder
    assert held(fetched.folder) == needed(files)
    assert (folder / FIRST).read_bytes() == flipped(files[FIRST])
    assert [path.rpartition("FilePath=")[2] for path in hub.paths() if "FilePath" in path] == [FIRST]


def test_an_older_layout_does_not_answer_for_a_revision(hub: HubServer, caches: Caches) -> None:
    write(caches.ms / "hub/models/org/model", checkpoint_files())
    with pytest.raises(HubFailed, match="ms:org/model@v2 is not in the cache"):
        fetch(f"{NAME}@v2", offline=True)


def test_a_folder_that_lacks_a_shard_is_not_taken_for_whole(hub: HubServer, caches: Caches) -> None:
    files = checkpoint_files()
    del files[FIRST]
    write(caches.ms / "hub/models/org/model", files)
    with pytest.raises(HubFailed, match=rf"is not in the cache.*lacks {FIRST}"):
        fetch(NAME, offline=True)


def test_a_cut_connection_goes_on_where_it_stopped(hub: HubServer, naps: list[float]) -> None:
    files = checkpoint_files()
    hub.push("org/model", files)
    hub.faults = [Fault(path=f"FilePath={FIRST}", cut=100_000)]
    events: list[Event] = []
    assert held(fetch(NAME, emit=events.append).folder) == needed(files)
    assert asked_for(hub, FIRST) == [None, "bytes=100000-"]
    assert naps == [1.0]
    assert "the connection broke after 100000 of" in notes(events)[0]


def test_the_next_run_goes_on_where_the_last_one_gave_up(hub: HubServer, caches: Caches, naps: list[float]) -> None:
    files = checkpoint_files()
    hub.push("org/model", files)
    hub.faults = [Fault(path=f"FilePath={FIRST}", cut=70_000), Fault(path=f"FilePath={FIRST}", cut=0, times=ATTEMPTS)]
    with pytest.raises(HubFailed, match="gave up after 6 attempts"):
        fetch(NAME)
    with pytest.raises(HubFailed, match="not in the cache"):
        fetch(NAME, offline=True)
    hub.faults = []
    hub.requests.clear()
    assert held(fetch(NAME).folder) == needed(files)
    assert asked_for(hub, FIRST) == ["bytes=70000-"]
    assert asked_for(hub, "config.json") == []
    assert leftovers(caches.ms) == []


def test_wrong_bytes_are_refused_with_both_digests(hub: HubServer, caches: Caches) -> None:
    files = checkpoint_files()
    hub.push("org/model", files)
    hub.faults = [Fault(path="FilePath=config.json", change=flipped)]
    wrong, right = sha256(flipped(files["config.json"])), sha256(files["config.json"])
    with pytest.raises(IntegrityMismatch, match=f"its sha256 is {wrong}, the hub says {right}"):
        fetch(NAME)
    assert leftovers(caches.ms) == []
    assert held(fetch(NAME).folder) == needed(files)


@pytest.mark.parametrize("path", ["repo/files", "FilePath=config.json"], ids=["listing", "file"])
def test_a_busy_hub_is_waited_for(hub: HubServer, naps: list[float], path: str) -> None:
    files = checkpoint_files()
    hub.push("org/model", files)
    hub.faults = [Fault(path=path, status=429, headers={"Retry-After": "3"})]
    assert held(fetch(NAME).folder) == needed(files)
    assert naps == [3.0]


def test_offline_a_damaged_file_is_an_error(hub: HubServer) -> None:
    files = checkpoint_files()
    hub.push("org/model", files)
    folder = fetch(NAME).folder
    (folder / FIRST).write_bytes(flipped(files[FIRST]))
    with pytest.raises(IntegrityMismatch, match=rf"{FIRST}: its sha256 is \w+, the hub says {sha256(files[FIRST])}"):
        fetch(NAME, offline=True)
    assert held(fetch(NAME).folder) == needed(files)


def test_a_branch_that_moves_meanwhile_does_not_mix_commits(hub: HubServer) -> None:
    old, new = checkpoint_files(), checkpoint_files(600_000)
    commit = hub.push("org/model", old)
    hub.faults = [Fault(path="FilePath=config.json", then=lambda: hub.push("org/model", new) and None)]
    fetched = fetch(NAME)
    assert (fetched.revision, held(fetched.folder)) == (commit, needed(old))
    assert held(fetch(NAME).folder) == needed(new)
    assert held(fetched.folder) == needed(old)


@pytest.mark.parametrize(
    ("status", "says", "hint"),
    [
        (403, "ms:org/model: the hub answers 403: no access", "MODELSCOPE_API_TOKEN"),
        (401, "ms:org/model: the hub answers 401: no access", "MODELSCOPE_API_TOKEN"),
        (404, "ms:org/model is not on the hub, or is private", "https://modelscope.cn/models/org/model"),
        (400, "ms:org/model: the hub answers 400", "later"),
    ],
    ids=["403", "401", "404", "400"],
)
def test_a_refusal_is_one_line_with_the_way_out(hub: HubServer, status: int, says: str, hint: str) -> None:
    hub.push("org/model", checkpoint_files())
    hub.faults = [Fault(path="repo/files", status=status)]
    with pytest.raises(HubFailed, match=says) as caught:
        fetch(NAME)
    assert hint in caught.value.hint


def test_an_unknown_revision_is_an_empty_list_and_an_error(hub: HubServer) -> None:
    hub.push("org/model", checkpoint_files())
    with pytest.raises(HubFailed, match="ms:org/model has no revision 'v9', or no files there"):
        fetch(f"{NAME}@v9")


def test_the_token_goes_to_the_hub_and_not_where_it_redirects(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    files = checkpoint_files()
    hub.push("org/model", files)
    hub.gated.add("org/model")
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "secret")
    elsewhere = f"{hub.cdn_url}/cdn/{sha256(files[FIRST])}"
    hub.faults = [Fault(path=f"FilePath={FIRST}", status=302, headers={"Location": elsewhere})]
    assert held(fetch(NAME).folder) == needed(files)
    sent = {(seen.server, seen.headers.get("authorization"), seen.headers.get("cookie")) for seen in hub.requests}
    assert sent == {("hub", "Bearer secret", "m_session_id=secret"), ("cdn", None, None)}


def test_a_path_that_leaves_the_folder_stops_everything(hub: HubServer) -> None:
    hub.push("org/model", checkpoint_files())
    hub.extra_paths = ("../evil.json",)
    with pytest.raises(UnsafeInput, match=r"ms:org/model: the hub lists '\.\./evil\.json'"):
        fetch(NAME)
    assert not any("FilePath" in path for path in hub.paths())


@pytest.mark.parametrize(
    "body",
    ["<html>", "{}", "[]",
     '{"Success": false, "Message": "no"}', '{"Data": {"Files": 3}}', '{"Data": {"Files": [{"Path": 1}]}}',
     '{"Data": {"Files": [{"Path": "config.json", "Revision": "x"}]}}',
     '{"Data": {"Files": [{"Path": "config.json", "Sha256": "../x", "Revision": "' + "a" * 40 + '"}]}}'],
    ids=["html", "empty", "list", "failure", "number", "path", "no commit", "digest"],
)  # fmt: skip
def test_an_answer_that_is_none_is_one_line(hub: HubServer, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    hub.push("org/model", checkpoint_files())
    monkeypatch.setattr("tests.hub_server.json.dumps", lambda value: body)
    with pytest.raises(HubFailed) as caught:
        fetch(NAME)
    assert caught.value.hint
    assert "\n" not in caught.value.message


def test_a_list_that_the_hub_cuts_short_is_asked_for_without_its_folders(hub: HubServer) -> None:
    files = checkpoint_files()
    hub.push("org/model", files)
    hub.extra_paths = tuple(f"many/{number}.json" for number in range(3000))
    top = {path: data for path, data in needed(files).items() if "/" not in path}
    assert held(fetch(NAME).folder) == top


def test_sizes_that_the_hub_does_not_know_are_no_obstacle(hub: HubServer, tmp_path: Path, naps: list[float]) -> None:
    files = checkpoint_files()
    hub.push("org/model", files)
    hub.gives_sizes = False
    hub.faults = [Fault(path=f"FilePath={FIRST}", cut=100_000)]
    assert held(fetch(NAME, output=tmp_path / "out").folder) == needed(files)
    assert asked_for(hub, FIRST) == [None, "bytes=100000-"]


def test_nobody_at_the_endpoint_is_one_line(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubFailed, match=r"http://127\.0\.0\.1:9 cannot be reached") as caught:
        fetch(NAME)
    assert "MODELSCOPE_ENDPOINT" in caught.value.hint
