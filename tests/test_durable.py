from __future__ import annotations

import errno
import hashlib
import os
import resource
from pathlib import Path

import pytest

from packager.durable import disk_error, disk_errors, is_disk_error, sha256_file, write_durably
from packager.errors import InputInvalid, NoSpace
from packager.events import Advanced, Event


@pytest.mark.parametrize("size", [0, 1, (4 << 20) - 1, 4 << 20, (4 << 20) + 1], ids=str)
def test_sha256_is_that_of_the_bytes(size: int, tmp_path: Path) -> None:
    data = os.urandom(size)
    (tmp_path / "x").write_bytes(data)
    assert sha256_file(tmp_path / "x") == hashlib.sha256(data).hexdigest()


def sparse(path: Path, size_bytes: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size_bytes)
    return path


def test_progress_is_told_every_64_mebibytes(tmp_path: Path) -> None:
    events = list[Event]()
    sha256_file(sparse(tmp_path / "x", (130 << 20) + 1), emit=events.append, stage="s")
    assert events == [
        Advanced(stage="s", done=done << 20, total=(130 << 20) + 1, unit="B", detail="x") for done in (64, 128)
    ]


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = sparse(tmp_path / "x", 65 << 20)

    def grow(event: Event) -> None:
        with path.open("ab") as file:
            file.write(b"more")

    with pytest.raises(InputInvalid, match="changed while it was read"):
        sha256_file(path, emit=grow)


def test_what_cannot_be_hashed(tmp_path: Path) -> None:
    with pytest.raises(InputInvalid, match="absent: No such file"):
        sha256_file(tmp_path / "absent")
    with pytest.raises(InputInvalid, match=str(tmp_path)):
        sha256_file(tmp_path)
    with pytest.raises(InputInvalid, match="not a regular file"):
        sha256_file(Path("/dev/null"))


def test_text_is_written_as_it_is(tmp_path: Path) -> None:
    write_durably(tmp_path / "x", "a\r\nb\nÄ")
    assert (tmp_path / "x").read_bytes() == "a\r\nb\nÄ".encode()
    write_durably(tmp_path / "x", "")
    assert (tmp_path / "x").read_bytes() == b""
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_write_that_fails_leaves_what_was(tmp_path: Path) -> None:
    write_durably(tmp_path / "x", "before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # a real limit: the kernel refuses the write
    try:
        with pytest.raises(NoSpace):
            write_durably(tmp_path / "x", "after" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "x").read_text() == "before"


@pytest.mark.parametrize(
    ("number", "kind", "mine"),
    [
        (errno.ENOSPC, NoSpace, True),
        (errno.EDQUOT, NoSpace, True),
        (errno.EACCES, InputInvalid, True),
        (errno.EROFS, InputInvalid, True),
        (errno.EIO, InputInvalid, True),
        (errno.EMFILE, InputInvalid, True),
        (errno.ENOENT, InputInvalid, False),
        (errno.ECONNREFUSED, InputInvalid, False),
    ],
    ids=lambda value: errno.errorcode.get(value) if isinstance(value, int) and value > 1 else None,
)
def test_what_an_errno_means(number: int, kind: type[Exception], mine: bool) -> None:
    error = OSError(number, os.strerror(number), "out/x")
    found = disk_error(error, Path("out"))
    assert type(found) is kind
    assert found.message == f"out/x: {os.strerror(number)}"
    assert found.hint
    assert is_disk_error(error) is mine


def test_an_error_without_a_name_gets_the_callers() -> None:
    with pytest.raises(NoSpace, match=r"^out: "), disk_errors(Path("out")):
        raise OSError(errno.ENOSPC, "full")
