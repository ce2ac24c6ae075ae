"""Which files of a model on a hub a build needs, what the hub says of them, and whether bytes are what it says.

Weights are safetensors only: pickles, GGUF, ONNX, TensorFlow and Flax files, and code, are never downloaded.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from packager.durable import FileDigest
from packager.errors import IntegrityMismatch, PackagerError, UnsafeInput, Unsupported
from packager.formats.checkpoint import PICKLES
from packager.formats.json_file import JsonObject, parse_object, read_text
from packager.formats.weight_files import INDEX, SINGLE

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
CONFIGS = ("config.json", ADAPTER_CONFIG)
_SMALL = re.compile(
    r"[^/]+\.(?:json|jinja|txt|model|tiktoken|ya?ml)|additional_chat_templates/[^/]+\.jinja|xtuner_config\.py"
    r"|(?:readme|licen[cs]e|notice)[^/]*",
    re.IGNORECASE,
)
_NOT_NEEDED = re.compile(r".*\.(?:bin|h5|msgpack|pt|pth)\.index\.json|trainer_state\.json")
_WEIGHTS = re.compile(r"[^/]+\.safetensors")
_NAME_LIMIT = 1024


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """One file as a hub lists it.

    Attributes:
        path: Its name inside the model, with slashes.
        url: Where its bytes are.
        size_bytes: None where the hub does not say.
        sha256: Digest of its bytes, None where the hub does not say.
        git_sha1: Id of the git blob that it is, None where the hub does not say.
    """

    path: str
    url: str
    size_bytes: int | None
    sha256: str | None = None
    git_sha1: str | None = None

    @property
    def key(self) -> str:
        """A file name for the content: its digest, or what cannot be taken for one."""
        return self.sha256 or self.git_sha1 or f"url-{hashlib.sha256(self.url.encode()).hexdigest()}"


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a model on a hub consists of at one commit."""

    commit: str
    files: tuple[RemoteFile, ...]


class Hasher:
    """The digests of a file, taken while its bytes pass by."""

    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self._git = hashlib.sha1(f"blob {file.size_bytes}\0".encode(), usedforsecurity=False)
        self.size_bytes = 0

    def update(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""
        self._sha256.update(data)
        if self._file.git_sha1 is not None:
            self._git.update(data)
        self.size_bytes += len(data)

    def check(self, where: object) -> FileDigest:
        """Give the digest, if it is the one that the hub says.

        Raises:
            IntegrityMismatch: The bytes are others, or more or fewer.
        """
        file, found = self._file, self._sha256.hexdigest()
        pairs = [("sha256", found, file.sha256), ("size", str(self.size_bytes), _text(file.size_bytes))]
        if file.sha256 is None and file.size_bytes is not None:
            pairs.append(("git blob", self._git.hexdigest(), file.git_sha1))
        for what, is_now, expected in pairs:
            if expected is not None and is_now != expected:
                hint = "Run the same command again: the file is fetched anew."
                raise IntegrityMismatch(f"{where}: its {what} is {is_now}, the hub says {expected}", hint=hint)
        return FileDigest(name=file.path, size_bytes=self.size_bytes, sha256=found)


def check_paths(files: Iterable[RemoteFile], *, where: str) -> None:
    """Refuse a listing with a path that is no plain relative one.

    Raises:
        UnsafeInput: A path leaves the folder, is absolute, or is no name that every file system has.
    """
    for file in files:
        if not _is_inside(file.path):
            raise UnsafeInput(
                f"{where}: the hub lists {file.path[:100]!r}, which is no path inside the model's folder",
                hint="Do not use this model; tell the hub about it.",
            )


def small_files(files: Iterable[RemoteFile]) -> tuple[RemoteFile, ...]:
    """Give everything that a build reads but weights: configuration, tokenizer, templates, licence, card."""
    files = tuple(files)
    has_single = any(file.path == SINGLE for file in files)  # which transformers loads, whatever an index says
    return tuple(
        file
        for file in files
        if _SMALL.fullmatch(file.path)
        and not _NOT_NEEDED.fullmatch(file.path)
        and not (has_single and file.path == INDEX)
    )


def weight_files(files: Iterable[RemoteFile], index: Path | None, *, where: str) -> tuple[RemoteFile, ...]:
    """Give the weights that a build reads: those that engines load, not a second copy in another layout.

    Args:
        files: The whole listing.
        index: The shards' index, already downloaded; None when the listing has none.
        where: The model, for messages.

    Raises:
        UnsafeInput: There are pickles only.
        Unsupported: There are no weights that a build can read.
        InputInvalid: The index is damaged, or names a shard that the hub does not have.
    """
    found = {file.path: file for file in files if _WEIGHTS.fullmatch(file.path)}
    names = {ADAPTER_WEIGHTS} & set(found)
    if SINGLE in found:
        names.add(SINGLE)
    elif index is not None:
        names |= _shards(index)
    elif not names:
        names = set(found)
    if missing := sorted(names - set(found)):
        raise Unsupported(f"{where}: {INDEX} names {missing[0]}, which the hub does not have", hint="Tell its author.")
    if not names:
        raise _no_weights([file.path for file in files], where)
    return tuple(found[name] for name in sorted(names))


def missing_file(folder: Path) -> str | None:
    """Give the name of a file that a folder lacks for a build to read it as a base or an adapter; None when it is whole."""
    if not any((folder / name).is_file() for name in CONFIGS):
        return CONFIGS[0]
    if (folder / ADAPTER_CONFIG).is_file():
        return None if (folder / ADAPTER_WEIGHTS).is_file() else ADAPTER_WEIGHTS
    if (folder / SINGLE).is_file() or not (folder / INDEX).is_file():
        return None if (folder / SINGLE).is_file() else SINGLE
    return next((name for name in sorted(_shards(folder / INDEX)) if not (folder / name).is_file()), None)


def _shards(index: Path) -> set[str]:
    weight_map = JsonObject(path=index, values=parse_object(read_text(index), path=index)).child("weight_map")
    names = set() if weight_map is None else {weight_map.text(name) or "" for name in weight_map.values}
    return {name for name in names if _WEIGHTS.fullmatch(name)}


def _no_weights(paths: list[str], where: str) -> PackagerError:
    pickles = sorted(path for path in paths if path.endswith(PICKLES))
    if pickles:
        return UnsafeInput(
            f"{where} has no safetensors weights, only pickles such as {pickles[0]}",
            hint="Pass a model with safetensors; most have a revision or a copy that is converted.",
        )
    others = sorted(path for path in paths if path.endswith((".gguf", ".onnx", ".h5", ".msgpack")))
    there = f"; it has {others[0]}" if others else ""
    return Unsupported(f"{where} has no safetensors weights{there}", hint="Pass the original model in safetensors.")


def _is_inside(path: str) -> bool:
    parts = path.split("/")
    return (
        0 < len(path) <= _NAME_LIMIT
        and path.isprintable()
        and not any(part in ("", ".", "..") for part in parts)
        and not re.search(r"[\\:]", path)
        and not PurePosixPath(path).is_absolute()
    )


def _text(value: int | None) -> str | None:
    return None if value is None else str(value)
