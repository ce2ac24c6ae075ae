"""The Hugging Face hub: what a model consists of at a commit, and where its cache is.

huggingface_hub does what it is the authority on: addresses, tokens, mirrors, the listing, the place of the cache. The bytes are
fetched by `packager.sources.hub_transfer`, because huggingface_hub 2 begins a file anew after every interruption.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from packager.errors import HubFailed, PackagerError
from packager.events import Emit
from packager.sources.hub_files import Listing, RemoteFile
from packager.sources.hub_name import HubName
from packager.sources.hub_place import BlobPlace, Place
from packager.sources.hub_records import read_ref, write_ref
from packager.sources.hub_snapshot import Snapshot
from packager.sources.hub_wire import Unreachable, Wire, asked_wait_s, is_hiccup, is_passing, passing_problem

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

_PAGE = "https://huggingface.co"
_BRANCH = "main"
_LIBRARY = "ollama-packager"
_LOCK = "packager.lock"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class HuggingFace:
    """The hub at HF_ENDPOINT, with HF_TOKEN, and the cache at HF_HUB_CACHE or HF_HOME; all as huggingface_hub reads them."""

    def __init__(self) -> None:
        from huggingface_hub import constants

        self.endpoint = constants.ENDPOINT
        self.offline = constants.is_offline_mode()
        self._cache = Path(constants.HF_HUB_CACHE)

    def wire(self, name: HubName, emit: Emit) -> Wire:
        """Give a client that sends the token to the endpoint only."""
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented, not exported

        headers = build_hf_headers(library_name=_LIBRARY)
        return Wire(endpoint=self.endpoint, headers=headers, refusal=lambda *seen: _refusal(name, *seen), emit=emit)

    def listing(self, name: HubName, wire: Wire) -> Listing:
        """Give commit and files in one answer, so that no commit can come between them.

        Raises:
            Unreachable: Nobody answers at the endpoint.
            HubFailed: The hub refuses, or is busy for too long.
        """
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]  # of httpx or httpx2

        api = HfApi(endpoint=self.endpoint, library_name=_LIBRARY)
        while True:
            try:
                info = api.model_info(name.repo, revision=name.revision, files_metadata=True, timeout=30)
                break
            except HfHubHTTPError as error:
                status, headers = error.response.status_code, error.response.headers
                if not is_passing(status):
                    raise _refusal(name, status, headers) from error
                wire.patience.wait(passing_problem(self.endpoint, status), asked_wait_s(headers))
            except HTTPError as error:
                if is_hiccup(error):
                    wire.patience.wait(f"{self.endpoint}: the connection broke ({str(error) or type(error).__name__})")
                    continue
                raise Unreachable(
                    f"{self.endpoint} cannot be reached ({str(error) or type(error).__name__})",
                    hint="Check the connection; HF_ENDPOINT names a mirror. The cache does not have it.",
                ) from error
            except (ValueError, KeyError, TypeError) as error:
                raise HubFailed(
                    f"{self.endpoint} does not answer as the hub does ({type(error).__name__}: {str(error)[:100]})",
                    hint="Check HF_ENDPOINT and the proxy.",
                ) from error
        if not info.sha or not _COMMIT.fullmatch(info.sha):
            raise HubFailed(f"{self.endpoint} names no commit of {name}", hint="Check HF_ENDPOINT.")
        wire.patience.rewarded()
        return Listing(commit=info.sha, files=tuple(self._file(name, info.sha, one) for one in info.siblings or ()))

    def place(self, name: HubName, commit: str) -> Place:
        """Give the model's place in the cache."""
        storage = self._storage(name)
        lock = self._cache / ".locks" / storage.name / _LOCK
        return BlobPlace(storage, commit=commit, lock=lock)

    def remember(self, name: HubName, commit: str) -> None:
        """Write where the revision is now, for the next time without a network."""
        write_ref(self._storage(name), name.revision or _BRANCH, commit)

    def snapshots(self, name: HubName) -> tuple[Snapshot, ...]:
        """Give the model as it is in the cache at the wanted revision, whoever put it there."""
        commit = name.commit or read_ref(self._storage(name), name.revision or _BRANCH)
        if commit is None:
            return ()
        return (Snapshot(folder=self._storage(name) / "snapshots" / commit, revision=commit, recorded=_recorded),)

    def copy_of(self, name: HubName, file: RemoteFile) -> Path | None:
        """Give a file of the cache that has the bytes, by its name."""
        path = self._storage(name) / "blobs" / file.key
        return path if path.is_file() else None

    def _storage(self, name: HubName) -> Path:
        return self._cache / f"models--{name.repo.replace('/', '--')}"

    def _file(self, name: HubName, commit: str, sibling: RepoSibling) -> RemoteFile:
        from huggingface_hub import hf_hub_url

        path, large = sibling.rfilename, sibling.lfs
        sha256, git_sha1 = (large.sha256, None) if large else (None, sibling.blob_id)
        for digest in (sha256, git_sha1):
            if digest is not None and not _DIGEST.fullmatch(digest):
                raise HubFailed(
                    f"{name}: the hub gives {path[:100]!r} the digest {digest[:80]!r}", hint="Check HF_ENDPOINT."
                )
        return RemoteFile(
            path=path,
            url=hf_hub_url(name.repo, path, revision=commit, endpoint=self.endpoint),
            size_bytes=large.size if large else sibling.size,
            sha256=sha256,
            git_sha1=git_sha1,
        )


def _recorded(folder: Path, path: str) -> RemoteFile | None:
    """Give what the cache says of a file: the name of the blob that it links to is its digest."""
    link = folder / path
    name = link.readlink().name if link.is_symlink() else ""  # one step: a blob may be a link into a store of its own
    if not _DIGEST.fullmatch(name):
        return None
    is_large = len(name) == 64
    return RemoteFile(
        path=path,
        url="",
        size_bytes=link.stat().st_size,
        sha256=name if is_large else None,
        git_sha1=None if is_large else name,
    )


def _refusal(name: HubName, status: int, headers: Mapping[str, str]) -> PackagerError:
    """Give the error for an answer that waiting does not change.

    Source:
        huggingface_hub 2.4, `hf_raise_for_status` (X-Error-Code; 401 is also what a missing model gets).
    """
    code, page = headers.get("x-error-code", ""), f"{_PAGE}/{name.repo}"
    if code == "GatedRepo":
        hint = f"Accept its licence at {page}, then set HF_TOKEN to a token of that account."
        return HubFailed(f"{name} is gated: its licence has to be accepted first", hint=hint)
    if code == "RevisionNotFound":
        hint = f"Leave the revision out for the newest one, or choose one of {page}/commits/main."
        return HubFailed(f"{name.source} has no revision {name.revision!r}", hint=hint)
    if code == "EntryNotFound":
        return HubFailed(f"{name}: the hub does not have a file that it lists", hint="Run the same command again.")
    if (
        code == "RepoNotFound"
        or status == 404
        or (status == 401 and "nvalid" not in headers.get("x-error-message", ""))
    ):
        hint = f"Check the spelling at {_PAGE}; for a private model set HF_TOKEN; for a folder, that it exists."
        return HubFailed(f"{name.source} is not on the hub, or is private", hint=hint)
    if status in (401, 403):
        hint = "Set HF_TOKEN to a token that may read this model (hf auth login, or unset it for a public one)."
        return HubFailed(f"{name}: the hub answers {status} to this token", hint=hint)
    return HubFailed(
        f"{name}: the hub answers {status}", hint="Check HF_ENDPOINT, or run the same command again later."
    )
