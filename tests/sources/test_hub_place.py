from __future__ import annotations

import multiprocessing
import threading
from pathlib import Path

import pytest

from packager.durable import FileDigest
from packager.errors import InputInvalid
from packager.events import Event, Noted
from packager.sources.hub_files import RemoteFile
from packager.sources.hub_place import BlobPlace, FolderPlace, Place
from tests.hub_server import git_sha1, sha256

DATA = b"the bytes"
LARGE = RemoteFile(path="a.safetensors", url="", size_bytes=len(DATA), sha256=sha256(DATA))
SMALL = RemoteFile(path="sub/b.json", url="", size_bytes=len(DATA), git_sha1=git_sha1(DATA))
DIGESTS = tuple(FileDigest(name=file.path, size_bytes=len(DATA), sha256=sha256(DATA)) for file in (LARGE, SMALL))


def places(root: Path) -> dict[str, Place]:
    return {
        "blobs": BlobPlace(root / "models--a--b", commit="c" * 40, lock=root / ".locks" / "lock"),
        "folder": FolderPlace(root / "out", source="hf:a/b", commit="c" * 40),
    }


@pytest.mark.parametrize("kind", ["blobs", "folder"])
def test_files_count_when_they_are_published(kind: str, tmp_path: Path) -> None:
    place = places(tmp_path)[kind]
    with place.locked(lambda event: None):
        for file in (LARGE, SMALL):
            assert place.have(file, lambda event: None) is None
            place.partial(file).write_bytes(DATA)
            place.keep(file)
            found = place.have(file, lambda event: None)
            assert found is not None
            assert found.sha256 == sha256(DATA)
            assert not (place.folder / file.path).exists()
        place.publish((LARGE, SMALL), DIGESTS)
    assert (place.folder / "a.safetensors").read_bytes() == DATA
    assert (place.folder / "sub/b.json").read_bytes() == DATA


def test_a_link_of_a_cache_is_relative_so_that_the_cache_can_be_moved(tmp_path: Path) -> None:
    place = places(tmp_path)["blobs"]
    with place.locked(lambda event: None):
        place.partial(SMALL).write_bytes(DATA)
        place.keep(SMALL)
        place.publish((SMALL,), DIGESTS[1:])
    assert (place.folder / "sub/b.json").readlink() == Path("../../../blobs") / git_sha1(DATA)


def hold(root: str, kind: str, ready: object, leave: object) -> None:
    with places(Path(root))[kind].locked(lambda event: None):
        ready.set()  # type: ignore[attr-defined]
        leave.wait(30)  # type: ignore[attr-defined]


@pytest.mark.parametrize("killed", [False, True], ids=["ends", "is killed"])
@pytest.mark.parametrize("kind", ["blobs", "folder"])
def test_the_second_one_waits_for_the_first_and_says_so(kind: str, killed: bool, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, leave = context.Event(), context.Event()
    other = context.Process(target=hold, args=(str(tmp_path), kind, ready, leave))
    other.start()
    assert ready.wait(30)
    events: list[Event] = []

    def told(event: Event) -> None:
        events.append(event)
        threading.Thread(target=other.kill if killed else leave.set).start()

    with places(tmp_path)[kind].locked(told):
        pass
    other.join(30)
    (event,) = events
    assert isinstance(event, Noted)
    assert "waiting for it" in event.text


def test_a_foreign_file_is_named_before_anything_is_fetched(tmp_path: Path) -> None:
    place = places(tmp_path)["folder"]
    with place.locked(lambda event: None):
        (tmp_path / "out" / LARGE.path).write_bytes(b"mine")
        with pytest.raises(InputInvalid, match=r"a\.safetensors: exists, and packager did not fetch it"):
            place.have(LARGE, lambda event: None)


def test_a_staged_file_that_was_damaged_does_not_replace_a_good_one(tmp_path: Path) -> None:
    place = places(tmp_path)["folder"]
    with place.locked(lambda event: None):
        (tmp_path / "out" / LARGE.path).write_bytes(DATA)
        place.partial(LARGE).write_bytes(b"damaged")
        place.keep(LARGE)
        assert place.have(LARGE, lambda event: None) is not None
        place.publish((LARGE,), DIGESTS[:1])
    assert (tmp_path / "out" / LARGE.path).read_bytes() == DATA
