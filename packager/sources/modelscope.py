"""The ModelScope hub: what a model consists of, and the folders that its own tools fill.

Unlike Hugging Face, it gives no list at a commit of its own choosing: the commit is the newest one that its list of files
names, every file has a sha256, and an unknown revision is an empty list.

Source:
    modelscope-hub 0.5.1: `_legacy_api.py` (addresses, Data.Files, LatestCommitter), `_download.py` (cache, `___` for a dot),
    `config.py` (MODELSCOPE_ENDPOINT, MODELSCOPE_API_TOKEN, MODELSCOPE_CACHE); modelscope 1.40.2, `hub/utils/utils.py`
    (older layouts).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote_plus

import httpx

from packager.errors import HubFailed, InputInvalid, PackagerError
from packager.events import Emit
from packager.formats.json_file import JsonObject
from packager.sources.hub_files import Listing, RemoteFile
from packager.sources.hub_name import HubName
from packager.sources.hub_place import FolderPlace, Place
from packager.sources.hub_records import read_ref, write_ref
from packager.sources.hub_snapshot import Snapshot, nothing_recorded, receipt_snapshot
from packager.sources.hub_wire import Unreachable, Wire, is_hiccup

_DEFAULT = "https://modelscope.cn"
_BRANCH = "master"
_TRUNCATED_AT = 3000
_LIMIT_BYTES = 32 << 20
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
_TRUE = ("1", "on", "yes", "true")


class ModelScope:
    """The hub at MODELSCOPE_ENDPOINT, with MODELSCOPE_API_TOKEN, and the cache at MODELSCOPE_CACHE."""

    def __init__(self) -> None:
        domain = os.environ.get("MODELSCOPE_DOMAIN")
        self.endpoint = os.environ.get("MODELSCOPE_ENDPOINT") or (f"https://{domain}" if domain else _DEFAULT)
        self.endpoint = self.endpoint.rstrip("/")
        self.offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in _TRUE
        named = os.environ.get("MODELSCOPE_CACHE")
        self._cache = Path(named).expanduser() if named else Path.home() / ".cache" / "modelscope"

    def wire(self, name: HubName, emit: Emit) -> Wire:
        """Give a client that sends the token to the endpoint only, as header and as cookie, as its own tools do."""
        token = os.environ.get("MODELSCOPE_API_TOKEN")
        secret = {"Authorization": f"Bearer {token}", "Cookie": f"m_session_id={token}"} if token else {}
        headers = {"User-Agent": "ollama-packager", **secret}
        return Wire(endpoint=self.endpoint, headers=headers, refusal=lambda *seen: _refusal(name, *seen), emit=emit)

    def listing(self, name: HubName, wire: Wire) -> Listing:
        """Give the files of a revision, and the newest commit that they name.

        Raises:
            Unreachable: Nobody answers at the endpoint.
            HubFailed: The hub refuses, is busy for too long, or does not have the revision.
        """
        api = f"{self.endpoint}/api/v1/models/{name.repo}/repo"
        asked = name.revision or _BRANCH
        files = f"{api}/files?Revision={quote_plus(asked)}&Recursive="
        try:
            data = self._answer(f"{files}True", wire)
            if len(data.items("Files")) >= _TRUNCATED_AT:  # the hub lists no more, and does not say so
                data = self._answer(f"{files}False", wire)
            entries = _entries(data)
            if not entries:
                hint = f"Leave the revision out for {_BRANCH}, or choose one of {_DEFAULT}/models/{name.repo}/files."
                raise HubFailed(f"{name.source} has no revision {asked!r}, or no files there", hint=hint)
            commit = _commit(data, entries)
            address = f"{api}?Revision={commit}&FilePath="
            return Listing(commit=commit, files=tuple(_file(entry, address) for entry in entries))
        except InputInvalid as error:
            raise HubFailed(error.message, hint="Check MODELSCOPE_ENDPOINT and the proxy.") from error

    def place(self, name: HubName, commit: str) -> Place:
        """Give the model's place in the cache: a folder of its own for every commit."""
        return FolderPlace(self._new(name) / "snapshots" / commit, source=name.source, commit=commit)

    def remember(self, name: HubName, commit: str) -> None:
        """Write where the revision is now, for the next time without a network."""
        write_ref(self._new(name), name.revision or _BRANCH, commit)

    def snapshots(self, name: HubName) -> tuple[Snapshot, ...]:
        """Give the model as it is in the cache, in every layout that ModelScope's tools have used; the newest layout first.

        The older layouts do not say of which revision they are, and answer only where none is asked for.
        """
        new, asked = self._new(name) / "snapshots", name.revision or _BRANCH
        commit = name.commit or read_ref(self._new(name), asked)
        named = [*([new / commit] if commit else []), new / asked]
        if name.revision is None:
            named.append(new / "main")
            org, _, plain = name.repo.partition("/")
            for base in (self._cache, self._cache / "hub"):
                for parent in (base / "models" / org, base / org):
                    named += [parent / plain.replace(".", "___"), parent / plain]
        return tuple(
            receipt_snapshot(folder)
            or Snapshot(
                folder=folder, revision=folder.name if folder.parent == new else _BRANCH, recorded=nothing_recorded
            )
            for folder in dict.fromkeys(named)
            if folder.is_dir()
        )

    def copy_of(self, name: HubName, file: RemoteFile) -> Path | None:
        """Give a file of the cache that may have the bytes, by its name and size."""
        for snapshot in self.snapshots(name):
            path = snapshot.folder / file.path
            if path.is_file() and path.stat().st_size == file.size_bytes:
                return path
        return None

    def _answer(self, url: str, wire: Wire) -> JsonObject:
        while True:
            try:
                with wire.get(url) as response:
                    return _data(self.endpoint, response)
            except httpx.RequestError as error:
                cause = str(error) or type(error).__name__
                if is_hiccup(error):
                    wire.patience.wait(f"{self.endpoint}: the connection broke ({cause})")
                    continue
                raise Unreachable(
                    f"{self.endpoint} cannot be reached ({cause})",
                    hint="Check the connection; MODELSCOPE_ENDPOINT names another address. The cache does not have it.",
                ) from error

    def _new(self, name: HubName) -> Path:
        return self._cache / "models" / name.repo.replace("/", "--")


def _data(endpoint: str, response: httpx.Response) -> JsonObject:
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > _LIMIT_BYTES:
            raise HubFailed(f"{endpoint}: its list of files is over {_LIMIT_BYTES} bytes", hint="Check the endpoint.")
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    data = answer.get("Data") if isinstance(answer, dict) and answer.get("Success", True) is True else None
    if not isinstance(data, dict):
        said = answer.get("Message") if isinstance(answer, dict) else None
        text = f"says {str(said)[:100]!r}" if said else "does not answer as the hub does"
        raise HubFailed(f"{endpoint} {text}", hint="Check the name, MODELSCOPE_ENDPOINT and the proxy.")
    return JsonObject(path=Path("the hub's list of files"), values=data)


def _entries(data: JsonObject) -> list[JsonObject]:
    found = [JsonObject(path=data.path, values=item) for item in data.items("Files") if isinstance(item, dict)]
    return [entry for entry in found if entry.text("Type") != "tree"]


def _commit(data: JsonObject, entries: list[JsonObject]) -> str:
    """Give the commit that the list is of: what it says itself, or the file's commit that begins as its short form says."""
    latest = data.child("LatestCommitter")
    whole, short = (latest.text("Id"), latest.text("ShortId")) if latest is not None else (None, None)
    commits = [commit for entry in entries if (commit := entry.text("Revision")) and _COMMIT.fullmatch(commit)]
    if whole and _COMMIT.fullmatch(whole):
        return whole
    begun = [commit for commit in commits if short and commit.startswith(short)]
    newest = max(entries, key=lambda entry: entry.integer("CommittedDate") or 0).text("Revision")
    found = begun[0] if begun else newest or ""
    if not _COMMIT.fullmatch(found):
        raise HubFailed("the hub's list of files names no commit", hint="Run the same command again later.")
    return found


def _file(entry: JsonObject, address: str) -> RemoteFile:
    path, size, sha256 = entry.text("Path") or "", entry.integer("Size"), entry.text("Sha256") or None
    if sha256 is not None and not _SHA256.fullmatch(sha256):
        raise HubFailed(f"the hub gives {path[:100]!r} the sha256 {sha256[:80]!r}", hint="Check MODELSCOPE_ENDPOINT.")
    unknown = size == 0 and sha256 != _EMPTY_SHA256  # it lists 0 for an empty file and for a size that it does not know
    return RemoteFile(path=path, url=address + quote_plus(path), size_bytes=None if unknown else size, sha256=sha256)


def _refusal(name: HubName, status: int, headers: Mapping[str, str]) -> PackagerError:
    page = f"{_DEFAULT}/models/{name.repo}"
    if status == 404:
        return HubFailed(f"{name.source} is not on the hub, or is private", hint=f"Check the spelling: {page}.")
    if status in (401, 403):
        hint = f"Ask for access at {page}, then set MODELSCOPE_API_TOKEN to a token of that account."
        return HubFailed(f"{name}: the hub answers {status}: no access", hint=hint)
    return HubFailed(f"{name}: the hub answers {status}", hint="Run the same command again later.")
