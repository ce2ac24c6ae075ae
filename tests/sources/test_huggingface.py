from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants, scan_cache_dir, snapshot_download

from packager.errors import HubFailed, IntegrityMismatch, NoSpace, PackagerError, UnsafeInput
from packager.events import Advanced, Event, Noted, StageFinished, StageStarted
from packager.sources import hub as product
from packager.sources.hub import fetch
from packager.sources.hub_wire import ATTEMPTS
from tests.hub_server import NOT_NEEDED, Fault, HubServer, checkpoint_files, git_sha1, sha256
from tests.sources.conftest import Caches

NAME = "hf:org/model"
FIRST = "model-00001-of-00002.safetensors"


def notes(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Noted)]


def needed(files: dict[str, bytes]) -> dict[str, bytes]:
    return {path: data for path, data in files.items() if path not in NOT_NEEDED}


def held(folder: Path) -> dict[str, bytes]:
    """What a build can see of a folder."""
    every = (path for path in folder.rglob("*") if path.is_file() and ".packager" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in every}


def leftovers(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if "incomplete" in path.name or path.name.endswith((".partial", ".tmp"))]


def flipped(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


def test_every_needed_byte_arrives_and_no_other(hub: HubServer, caches: Caches) -> None:
    files = checkpoint_files()
    commit = hub.push("org/model", files)
    events: list[Event] = []
    fetched = fetch(NAME, emit=events.append)
    assert held(fetched.folder) == needed(files)
    assert {item.name: item.sha256 for item in fetched.files} == {p: sha256(d) for p, d in needed(files).items()}
    assert (fetched.source, fetched.revision, fetched.title) == (NAME, commit, f"{NAME} at {commit}")
    assert fetched.size_bytes == sum(map(len, needed(files).values()))
    assert not any(path in asked for path in NOT_NEEDED for asked in hub.paths())
    assert leftovers(caches.hf) == []
    assert isinstance(events[0], StageStarted)
    last = [event for event in events if isinstance(event, Advanced)][-1]
    assert (last.done, last.total, last.unit) == (fetched.size_bytes, fetched.size_bytes, "B")
    assert isinstance(events[-1], StageFinished)
    assert not events[-1].reused


def test_huggingface_hub_finds_it_in_its_cache_without_a_network(hub: HubServer, caches: Caches) -> None:
    hub.push("org/model", checkpoint_files())
    fetched = fetch(NAME)
    hub.requests.clear()
    for revision in ("main", fetched.revision):
        assert snapshot_download("org/model", revision=revision, local_files_only=True) == str(fetched.folder)
    found = scan_cache_dir(caches.hf)
    assert not found.warnings
    (repo,) = found.repos
    assert [revision.commit_hash for revision in repo.revisions] == [fetched.revision]
    assert hub.requests == []


@pytest.mark.parametrize("offline", [True, False], ids=["offline", "online"])
def test_what_huggingface_hub_fetched_is_used_as_it_is(hub: HubServer, caches: Caches, offline: bool) -> None:
    files = checkpoint_files()
    commit = hub.push("org/model", files)
    theirs = snapshot_download("org/model")
    hub.requests.clear()
    events: list[Event] = []
    fetched = fetch(NAME, offline=offline, emit=events.append)
    assert (str(fetched.folder), fetched.revision) == (theirs, commit)
    assert {item.name for item in fetched.files} == set(needed(files))
    assert notes(events) == []
    assert hub.paths("cdn") == []
    assert not any("/resolve/" in path for path in hub.paths())
    assert bool(hub.paths()) is not offline
    assert isinstance(events[-1], StageFinished)
    assert events[-1].reused


def test_a_cache_that_cannot_be_written_is_used(hub: HubServer, caches: Caches) -> None:
    hub.push("org/model", checkpoint_files())
    snapshot_download("org/model")
    before = sorted(path for path in caches.hf.rglob("*"))
    fetch(NAME)
    assert sorted(caches.hf.rglob("*")) == before


def test_hf_hub_offline_is_offline(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.push("org/model", checkpoint_files())
    fetched = fetch(NAME)
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch(NAME) == fetched
    assert hub.requests == []


def test_a_whole_commit_id_in_the_cache_asks_nobody(hub: HubServer) -> None:
    hub.push("org/model", checkpoint_files())
    fetched = fetch(NAME)
    hub.requests.clear()
    assert fetch(f"{NAME}@{fetched.revision}") == fetched
    assert hub.requests == []


def test_offline_and_not_in_the_cache(hub: HubServer) -> None:
    with pytest.raises(HubFailed, match=r"hf:org/model is not in the cache") as caught:
        fetch(NAME, offline=True)
    assert caught.value.hint == "Run packager fetch hf:org/model with a network first."
    assert hub.requests == []


def test_offline_and_only_a_part_in_the_cache(hub: HubServer) -> None:
    hub.push("org/model", checkpoint_files())
    snapshot_download("org/model", allow_patterns=["*.json", FIRST])
    with pytest.raises(HubFailed, match=r"is not in the cache.*lacks model-00002-of-00002\.safetensors"):
        fetch(NAME, offline=True)


def test_a_part_in_the_cache_is_completed(hub: HubServer) -> None:
    files = checkpoint_files()
    hub.push("org/model", files)
    snapshot_download("org/model", allow_patterns=["config.json", "tokenizer.json", FIRST])
    hub.requests.clear()
    assert held(fetch(NAME).folder) == needed(files)
    assert hub.paths("cdn") == [f"/cdn/{sha256(files['model-00002-of-00002.safetensors'])}"]


def test_a_hub_that_nobody_answers_for_is_replaced_by_the_cache(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, naps: list[float]
) -> None:
    hub.push("org/model", checkpoint_files())
    fetched = fetch(NAME)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    events: list[Event] = []
    assert fetch(NAME, emit=events.append) == fetched
    (note,) = notes(events)
    assert note.startswith("http://127.0.0.1:9 cannot be reached (")
    assert note.endswith(f"used {NAME} at {fetched.revision} of the cache")


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "http://no-such-host.invalid"], ids=["refused", "no name"])
def test_a_hub_that_nobody_answers_for_is_one_line(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, endpoint: str, strangers: list[str], naps: list[float]
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    with pytest.raises(HubFailed, match=rf"^{endpoint} cannot be reached \(.+\)$") as caught:
        fetch(NAME)
    assert "HF_ENDPOINT" in caught.value.hint
    assert "HF_ENDPOINT" in caught.value.hint
    assert strangers == [name for name in ("no-such-host.invalid",) if name in endpoint]
    strangers.clear()


def test_a_blob_that_is_a_link_into_a_shared_store_is_used(hub: HubServer, tmp_path: Path) -> None:
    hub.push("org/model", checkpoint_files())
    fetched = fetch(NAME)
    blob = (fetched.folder / FIRST).resolve()
    store = tmp_path / ("f" * 64)  # by its Xet hash, which is no sha256
    blob.rename(store)
    blob.symlink_to(store)
    assert fetch(NAME, offline=True) == fetched
    assert fetch(NAME) == fetched


def test_files_instead_of_links_are_not_checked_offline_which_is_said(hub: HubServer) -> None:
    files = checkpoint_files()
    hub.push("org/model", files)
    folder = fetch(NAME).folder
    for path in needed(files):
        (folder / path).unlink()
        (folder / path).write_bytes(files[path])
    events: list[Event] = []
    fetch(NAME, offline=True, emit=events.append)
    assert notes(events) == [f"not checked: of 11 of 11 files in {folder} no digest is recorded"]
    events.clear()
    assert fetch(NAME, emit=events.append).folder == folder
    assert notes(events) == []


def test_a_damaged_file_of_the_cache_is_said_and_fetched_again(hub: HubServer) -> None:
    files = checkpoint_files()
    hub.push("org/model", files)
    fetched = fetch(NAME)
    blob = (fetched.folder / FIRST).resolve()
    blob.write_bytes(flipped(blob.read_bytes()))
    events: list[Event] = []
    assert held(fetch(NAME, emit=events.append).folder) == needed(files)
    assert any(f"{FIRST} in the cache: its sha256 is" in note and "fetching it again" in note for note in notes(events))


@pytest.mark.parametrize("path", [FIRST, "config.json"], ids=["large", "small"])
def test_offline_a_damaged_file_of_the_cache_is_an_error(hub: HubServer, path: str) -> None:
    hub.push("org/model", checkpoint_files())
    fetched = fetch(NAME)
    blob = (fetched.folder / path).resolve()
    blob.write_bytes(flipped(blob.read_bytes()))
    with pytest.raises(IntegrityMismatch, match=f"{path}: its .* is [0-9a-f]+, the hub says {blob.name}") as caught:
        fetch(NAME, offline=True)
    assert "without --offline" in caught.value.hint


def test_a_cut_connection_goes_on_where_it_stopped(hub: HubServer, naps: list[float]) -> None:
    files = checkpoint_files()
    hub.push("org/model", files)
    hub.faults = [Fault(path=f"cdn /cdn/{sha256(files[FIRST])}", cut=n) for n in (100_000, 50_000)]
    events: list[Event] = []
    assert held(fetch(NAME, emit=events.append).folder) == needed(files)
    ranges = [seen.headers.get("range") for seen in hub.requests if sha256(files[FIRST]) in seen.path]
    assert ranges == [None, "bytes=100000-", "bytes=150000-"]
    assert naps == [1.0, 1.0]
    first, second = notes(events)
    assert f"{FIRST}: the connection broke after 100000 of {len(files[FIRST])} bytes" in first
    assert "after 150000 of" in second
    assert "trying again in 1 s (1 of 5)" in second


def test_a_connection_that_keeps_breaking_gives_up_and_the_next_run_goes_on(
    hub: HubServer, caches: Caches, naps: list[float]
) -> None:
    files = checkpoint_files()
    hub.push("org/model", files)
    cdn = f"cdn /cdn/{sha256(files[FIRST])}"
    hub.faults = [Fault(path=cdn, cut=70_000), Fault(path=cdn, cut=0, times=ATTEMPTS)]
    with pytest.raises(
        HubFailed, match=rf"{FIRST}: the connection broke after 70000 .*gave up after 6 attempts"
    ) as caught:
        fetch(NAME)
    assert "what is downloaded is kept" in caught.value.hint
    assert naps == [1.0, 2.0, 4.0, 8.0, 16.0]
    hub.faults = []
    hub.requests.clear()
    with pytest.raises(HubFailed, match="not in the cache"):
        fetch(NAME, offline=True)
    assert held(fetch(NAME).folder) == needed(files)
    ranges = [seen.headers.get("range") for seen in hub.requests if sha256(files[FIRST]) in seen.path]
    assert ranges == ["bytes=70000-"]
    assert leftovers(caches.hf) == []


def test_a_server_that_ignores_the_range_starts_again(hub: HubServer, naps: list[float]) -> None:
    files = checkpoint_files()
    hub.push("org/model", files)
    cdn = f"cdn /cdn/{sha256(files[FIRST])}"
    hub.faults = [Fault(path=cdn, cut=100_000), Fault(path=cdn, ignore_range=True)]
    assert held(fetch(NAME).folder) == needed(files)


@pytest.mark.parametrize(
    ("path", "where", "expected"),
    [(FIRST, "cdn /cdn/", sha256), ("config.json", "/config.json", git_sha1)],
    ids=["large", "small"],
)
def test_wrong_bytes_are_refused_with_both_digests_and_removed(
    hub: HubServer, caches: Caches, path: str, where: str, expected: Callable[[bytes], str]
) -> None:
    files = checkpoint_files()
    hub.push("org/model", files)
    where = where + sha256(files[path]) if where.startswith("cdn") else where
    hub.faults = [Fault(path=where, change=flipped)]
    right, wrong = expected(files[path]), expected(flipped(files[path]))
    with pytest.raises(IntegrityMismatch, match=rf"{path}: its .* is {wrong}, the hub says {right}") as caught:
        fetch(NAME)
    assert "fetched anew" in caught.value.hint
    assert leftovers(caches.hf) == []
    with pytest.raises(HubFailed, match="not in the cache"):
        fetch(NAME, offline=True)
    assert held(fetch(NAME).folder) == needed(files)


def test_wrong_bytes_of_an_earlier_run_are_fetched_once_more(hub: HubServer, naps: list[float]) -> None:
    files = checkpoint_files()
    hub.push("org/model", files)
    cdn = f"cdn /cdn/{sha256(files[FIRST])}"
    hub.faults = [Fault(path=cdn, cut=70_000, change=flipped), Fault(path=cdn, cut=0, times=ATTEMPTS)]
    with pytest.raises(HubFailed, match="gave up"):
        fetch(NAME)
    hub.faults = []
    events: list[Event] = []
    assert held(fetch(NAME, emit=events.append).folder) == needed(files)
    assert any("begun by an earlier run, so once more from the start" in note for note in notes(events))


def test_a_server_that_does_not_stop_is_cut_off(hub: HubServer) -> None:
    files = checkpoint_files()
    hub.push("org/model", files)
    hub.faults = [Fault(path=f"cdn /cdn/{sha256(files[FIRST])}", change=lambda data: data + bytes(10_000_000))]
    with pytest.raises(IntegrityMismatch, match=rf"{FIRST}: its (sha256|size) is"):
        fetch(NAME)


@pytest.mark.parametrize("path", ["hub /api/models", "/config.json", "cdn /cdn/"], ids=["listing", "small", "large"])
@pytest.mark.parametrize(
    ("status", "headers", "nap"),
    [
        (429, {"Retry-After": "7"}, 7.0),
        (429, {"RateLimit": '"api";r=0;t=12'}, 13.0),
        (503, {}, 1.0),
        (500, {}, 1.0),
    ],
    ids=["429 seconds", "429 ratelimit", "503", "500"],
)
def test_a_busy_hub_is_waited_for_which_is_said(
    hub: HubServer, naps: list[float], path: str, status: int, headers: dict[str, str], nap: float
) -> None:
    files = checkpoint_files()
    hub.push("org/model", files)
    hub.faults = [Fault(path=path, status=status, headers=headers)]
    events: list[Event] = []
    assert held(fetch(NAME, emit=events.append).folder) == needed(files)
    assert naps == [nap]
    (note,) = notes(events)
    assert f"answers {status}" in note
    assert f"trying again in {nap:.0f} s" in note


@pytest.mark.parametrize("path", ["hub /api/models", "/config.json"], ids=["listing", "file"])
def test_a_hub_that_asks_for_too_long_a_wait_is_given_up_at_once(hub: HubServer, naps: list[float], path: str) -> None:
    hub.push("org/model", checkpoint_files())
    hub.faults = [Fault(path=path, status=429, headers={"Retry-After": "3600"})]
    with pytest.raises(
        HubFailed, match=r"answers 429 \(too many requests\); waiting 3600 s more is too long, the limit is 600 s"
    ):
        fetch(NAME)
    assert naps == []


@pytest.mark.parametrize("path", ["hub /api/models", "/config.json"], ids=["listing", "file"])
def test_a_hub_that_stays_busy_is_given_up(hub: HubServer, naps: list[float], path: str) -> None:
    hub.push("org/model", checkpoint_files())
    hub.faults = [Fault(path=path, status=502, times=ATTEMPTS)]
    with pytest.raises(HubFailed, match="answers 502; gave up after 6 attempts"):
        fetch(NAME)
    assert naps == [1.0, 2.0, 4.0, 8.0, 16.0]


@pytest.mark.parametrize("name", [NAME, "ms:org/model"], ids=["hf", "ms"])
def test_a_listing_whose_connection_breaks_is_asked_for_again(hub: HubServer, naps: list[float], name: str) -> None:
    files = checkpoint_files()
    hub.push("org/model", files)
    hub.faults = [Fault(path="/models/org/model", cut=20, times=2)]
    events: list[Event] = []
    assert held(fetch(name, emit=events.append).folder) == needed(files)
    assert naps == [1.0, 2.0]
    assert all("the connection broke" in note for note in notes(events))


def test_a_gated_model_names_the_page_and_the_token(hub: HubServer) -> None:
    hub.push("org/model", checkpoint_files())
    hub.gated.add("org/model")
    with pytest.raises(HubFailed, match=r"hf:org/model is gated: its licence has to be accepted first") as caught:
        fetch(NAME)
    assert caught.value.hint == (
        "Accept its licence at https://huggingface.co/org/model, then set HF_TOKEN to a token of that account."
    )


def test_the_token_goes_to_the_hub_and_not_to_its_cdn(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    files = checkpoint_files()
    hub.push("org/model", files)
    hub.gated.add("org/model")
    monkeypatch.setenv("HF_TOKEN", "hf_allowed")
    fetched = fetch(NAME)
    assert held(fetched.folder) == needed(files)
    assert {seen.headers.get("authorization") for seen in hub.requests if seen.server == "cdn"} == {None}
    asked = [seen for seen in hub.requests if seen.server == "hub" and "agent" not in seen.path]
    assert {seen.headers.get("authorization") for seen in asked} == {"Bearer hf_allowed"}
    assert not any(
        "hf_allowed" in path.read_text(errors="replace") for path in fetched.folder.rglob("*") if path.is_file()
    )


def test_a_listing_that_is_redirected_elsewhere_does_not_get_the_token(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, naps: list[float]
) -> None:
    hub.push("org/model", checkpoint_files())
    monkeypatch.setenv("HF_TOKEN", "hf_allowed")
    hub.faults = [Fault(path="hub /api/models", status=302, headers={"Location": f"{hub.cdn_url}/stolen"})]
    with pytest.raises(HubFailed):
        fetch(NAME)
    (stolen,) = [seen for seen in hub.requests if seen.path == "/stolen"]
    assert "authorization" not in stolen.headers


@pytest.mark.parametrize(
    ("status", "headers", "says", "hint"),
    [
        (401, {"X-Error-Code": "RepoNotFound"}, "hf:org/model is not on the hub, or is private", "HF_TOKEN"),
        (
            401,
            {"X-Error-Message": "Invalid credentials in Authorization header"},
            "answers 401 to this token",
            "HF_TOKEN",
        ),
        (403, {}, "answers 403 to this token", "HF_TOKEN"),
        (404, {}, "hf:org/model is not on the hub, or is private", "spelling"),
        (451, {}, "hf:org/model: the hub answers 451", "later"),
    ],
    ids=["private", "bad token", "forbidden", "unknown", "other"],
)
def test_a_refusal_is_one_line_with_the_way_out(
    hub: HubServer, naps: list[float], status: int, headers: dict[str, str], says: str, hint: str
) -> None:
    hub.push("org/model", checkpoint_files())
    hub.faults = [Fault(path="hub /api/models", status=status, headers=headers)]
    with pytest.raises(HubFailed, match=says) as caught:
        fetch(NAME)
    assert hint in caught.value.hint
    assert naps == []


def test_an_unknown_model_and_an_unknown_revision_are_told_apart(hub: HubServer) -> None:
    hub.push("org/model", checkpoint_files())
    with pytest.raises(HubFailed, match="hf:org/other is not on the hub"):
        fetch("hf:org/other")
    with pytest.raises(HubFailed, match="hf:org/model has no revision 'v9'"):
        fetch(NAME, revision="v9")


def test_a_branch_that_moves_meanwhile_does_not_mix_commits(hub: HubServer) -> None:
    old, new = checkpoint_files(), checkpoint_files(600_000) | {"config.json": b'{"new": 1}'}
    commit = hub.push("org/model", old)
    hub.faults = [Fault(path="/config.json", then=lambda: hub.push("org/model", new) and None)]
    fetched = fetch(NAME)
    assert (fetched.revision, held(fetched.folder)) == (commit, needed(old))
    later = fetch(NAME)
    assert later.revision != commit
    assert held(later.folder) == needed(new)
    assert held(fetched.folder) == needed(old)


def test_a_branch_is_fetched_by_its_name(hub: HubServer) -> None:
    hub.push("org/model", checkpoint_files())
    old = checkpoint_files(600_000)
    commit = hub.push("org/model", old, "v1")
    for fetched in (fetch(f"{NAME}@v1"), fetch(NAME, revision="v1"), fetch(f"{NAME}@v1", offline=True)):
        assert fetched.revision == commit
        assert held(fetched.folder) == needed(old)


def test_a_path_that_leaves_the_folder_stops_everything(hub: HubServer, caches: Caches) -> None:
    hub.push("org/model", checkpoint_files())
    hub.extra_paths = ("../../evil.json",)
    with pytest.raises(UnsafeInput, match=r"hf:org/model: the hub lists '\.\./\.\./evil\.json'"):
        fetch(NAME)
    assert list(caches.hf.rglob("*.json")) == []
    assert not any("/resolve/" in path for path in hub.paths())


def test_a_digest_that_is_a_path_stops_everything(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.push("org/model", checkpoint_files())
    monkeypatch.setattr("tests.hub_server.git_sha1", lambda data: "../../evil")
    with pytest.raises(HubFailed, match=r"the digest '\.\./\.\./evil'"):
        fetch(NAME)


def test_only_http_is_followed(hub: HubServer) -> None:
    hub.push("org/model", checkpoint_files())
    hub.faults = [Fault(path="/config.json", status=302, headers={"Location": "file:///etc/passwd"})]
    with pytest.raises(UnsafeInput, match="redirects to 'file:///etc/passwd'; only http and https are followed"):
        fetch(NAME)


def test_redirects_end(hub: HubServer) -> None:
    hub.push("org/model", checkpoint_files())
    hub.faults = [Fault(path="/config.json", status=302, times=99, headers={"Location": f"{hub.url}/x/config.json"})]
    with pytest.raises(HubFailed, match="redirects 10 times and more"):
        fetch(NAME)


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"sha": "x"}', b"[]"], ids=["html", "empty", "no commit", "list"])
def test_an_endpoint_that_is_no_hub_is_one_line(hub: HubServer, monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    hub.push("org/model", checkpoint_files())
    monkeypatch.setattr("tests.hub_server.json.dumps", lambda value: body.decode())
    with pytest.raises(HubFailed, match=r"does not answer as the hub does|names no commit") as caught:
        fetch(NAME)
    assert "HF_ENDPOINT" in caught.value.hint


def test_too_small_a_disk_is_found_before_the_weights(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.push("org/model", checkpoint_files())
    usage = shutil._ntuple_diskusage(10**9, 10**9, 100_000)
    monkeypatch.setattr(product.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(NoSpace, match=r"the weights need 0\.00 GB, the disk has 0\.00 GB free"):
        fetch(NAME)
    assert sha256(checkpoint_files()[FIRST]) not in " ".join(hub.paths("cdn"))


def test_a_model_without_safetensors_is_refused_before_its_pickles(hub: HubServer) -> None:
    hub.push("org/model", {"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    with pytest.raises(UnsafeInput, match=r"only pickles such as pytorch_model\.bin") as caught:
        fetch(NAME)
    assert isinstance(caught.value, PackagerError)
    assert not any("pytorch_model" in path for path in hub.paths())


def test_without_a_cache_folder_that_can_be_made_it_is_one_line(hub: HubServer, caches: Caches) -> None:
    hub.push("org/model", checkpoint_files())
    caches.hf.parent.mkdir(parents=True)
    caches.hf.write_text("a file")
    with pytest.raises(PackagerError, match=str(caches.hf)) as caught:
        fetch(NAME)
    assert caught.value.exit_code in (3, 7)
    assert caches.hf.is_file()
