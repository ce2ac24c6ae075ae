from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from packager.errors import InputInvalid, IntegrityMismatch, ToolMissing, UnsafeInput
from packager.events import Event, Noted
from packager.sources import llama_cpp_tree
from packager.sources.llama_cpp_tree import (
    SDIST_SHA256,
    LlamaCppTree,
    cached_tree,
    find_tree,
    installed_version,
    unpack_tree,
)

ROOT = "llama_cpp_python-0/vendor/llama.cpp"
NEEDED = {
    f"{ROOT}/convert_hf_to_gguf.py": b"print()",
    f"{ROOT}/LICENSE": b"MIT",
    f"{ROOT}/conversion/__init__.py": b"",
    f"{ROOT}/conversion/base.py": b"x = 1",
    f"{ROOT}/gguf-py/gguf/__init__.py": b"",
}


def archive(path: Path, files: dict[str, bytes], extra: tuple[tarfile.TarInfo, ...] = ()) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in extra:
            tar.addfile(member)
    return path


def special(name: str, kind: bytes, target: str = "/etc/passwd") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setattr(llama_cpp_tree, "cache_folder", lambda: folder)
    return folder


def test_the_cached_tree_is_the_installed_versions(tree: LlamaCppTree) -> None:
    assert tree.version == installed_version()
    assert (tree.path / "conversion/base.py").is_file()
    assert cached_tree(None) == tree
    assert find_tree(None) == tree


def test_only_what_the_converter_needs_is_unpacked(tmp_path: Path) -> None:
    files = {**NEEDED, f"{ROOT}/src/llama.cpp": b"int x;", f"{ROOT}/gguf-py/tests/x.py": b"", "llama/setup.py": b"1"}
    output = tmp_path / "out"
    unpack_tree(archive(tmp_path / "x.tar.gz", files), output)
    found = {f"{ROOT}/{path.relative_to(output).as_posix()}" for path in output.rglob("*") if path.is_file()}
    assert found == set(NEEDED)
    assert (output / "conversion/base.py").read_bytes() == b"x = 1"


@pytest.mark.parametrize(
    "member",
    [
        pytest.param(special(f"{ROOT}/conversion/evil.py", tarfile.SYMTYPE), id="symbolic-link"),
        pytest.param(special(f"{ROOT}/conversion/evil.py", tarfile.LNKTYPE), id="hard-link"),
        pytest.param(special(f"{ROOT}/conversion/evil.py", tarfile.FIFOTYPE), id="pipe"),
        pytest.param(special(f"{ROOT}/conversion/../../../evil.py", tarfile.REGTYPE), id="upwards"),
        pytest.param(special(f"{ROOT}/conversion/..\\evil.py", tarfile.REGTYPE), id="backslash"),
    ],
)
def test_members_that_are_not_plain_files_inside_are_refused(member: tarfile.TarInfo, tmp_path: Path) -> None:
    with pytest.raises(UnsafeInput, match="evil"):
        unpack_tree(archive(tmp_path / "x.tar.gz", NEEDED, (member,)), tmp_path / "a" / "b" / "out")
    assert not list(tmp_path.rglob("evil.py"))


def test_an_archive_without_the_converter_or_cut_short_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputInvalid, match=r"has no vendor/llama\.cpp"):
        unpack_tree(archive(tmp_path / "x.tar.gz", {"a/b": b""}), tmp_path / "out")
    whole = archive(tmp_path / "y.tar.gz", NEEDED).read_bytes()
    (tmp_path / "z.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputInvalid, match="cannot be unpacked"):
        unpack_tree(tmp_path / "z.tar.gz", tmp_path / "out2")


def test_a_named_folder_is_checked_and_told_apart_by_its_code(tmp_path: Path) -> None:
    for name, content in NEEDED.items():
        path = tmp_path / Path(name).relative_to(ROOT)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    found = find_tree(tmp_path)
    assert found.path == tmp_path
    assert cached_tree(tmp_path) == found
    (tmp_path / "conversion/base.py").write_bytes(b"x = 2")
    assert find_tree(tmp_path).version != found.version
    (tmp_path / "conversion/base.py").unlink()
    with pytest.raises(InputInvalid, match=r"has no conversion/base\.py"):
        find_tree(tmp_path)


def test_a_version_without_a_pinned_digest_names_the_way_out(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr(llama_cpp_tree, "installed_version", lambda: "9.9.9")
    with pytest.raises(ToolMissing, match=r"9\.9\.9") as caught:
        find_tree(None)
    assert "--llama-cpp DIR" in caught.value.hint
    assert cached_tree(None) is None


def sdist(files: dict[str, bytes]) -> Callable[[str, Path], Path]:
    return lambda version, folder: archive(folder / "x.tar.gz", files)


def test_a_download_that_is_not_the_pinned_file_leaves_nothing(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr(llama_cpp_tree, "_pip_download", sdist(NEEDED))
    with pytest.raises(IntegrityMismatch, match=SDIST_SHA256[installed_version()]):
        find_tree(None)
    assert [path.suffix for path in cache.iterdir()] == [".lock"]
    assert cached_tree(None) is None


def test_a_download_is_published_whole_and_once(monkeypatch: pytest.MonkeyPatch, cache: Path, tmp_path: Path) -> None:
    digest = llama_cpp_tree._sha256(archive(tmp_path / "same.tar.gz", {}))
    monkeypatch.setattr(llama_cpp_tree, "_sha256", lambda path: digest)
    monkeypatch.setitem(SDIST_SHA256, installed_version(), digest)
    monkeypatch.setattr(llama_cpp_tree, "_pip_download", sdist(NEEDED))
    events: list[Event] = []
    found = find_tree(None, emit=events.append)
    assert (found.path / "convert_hf_to_gguf.py").read_bytes() == b"print()"
    assert [type(event) for event in events] == [Noted]
    assert find_tree(None, emit=events.append) == found
    assert len(events) == 1


def test_without_an_index_the_failure_says_what_to_do(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(ToolMissing, match="could not be downloaded") as caught:
        find_tree(None)
    assert "pip" in caught.value.message
    assert "--llama-cpp DIR" in caught.value.hint
