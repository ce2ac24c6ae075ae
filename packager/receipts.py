"""What a build folder remembers in `.packager/`: receipts of finished stages, intents, and digests of inputs.

Everything here may be lost or damaged at any time; what cannot be trusted is treated as absent, and the work done again.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from packager.codec import Json, decode, encode, pretty_json
from packager.durable import FileDigest, disk_errors, sha256_file, sync_folder, write_durably
from packager.errors import InputInvalid
from packager.events import Emit

_FORMAT = 1
_LIMIT_BYTES = 64 << 20
# A file that was changed this shortly before it was hashed may change again within the same tick of the clock.
_SETTLED_NS = 2_000_000_000


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """Proof that a stage finished: written last, so that without it nothing counts.

    Attributes:
        stage: The stage's verb.
        key: Digest of everything the outputs depend on.
        outputs: What the stage published; names are relative to the build folder.
        earlier: Files that earlier runs of this stage published and that this one did not replace.
        result: The stage's result as JSON, its paths relative to the build folder.
    """

    stage: str
    key: str
    outputs: tuple[FileDigest, ...]
    earlier: tuple[FileDigest, ...]
    result: Json


@dataclass(frozen=True, kw_only=True)
class Intent:
    """Files a stage is about to publish, so that a killed run knows its own files again."""

    outputs: tuple[FileDigest, ...]


@dataclass(frozen=True, kw_only=True)
class KnownDigest:
    """The digest of an input, and the state of the file when it was taken."""

    path: str
    size_bytes: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class _KnownDigests:
    digests: tuple[KnownDigest, ...]


class ReceiptBox:
    """The receipts and intents of one build folder.

    Args:
        folder: `DIR/.packager/receipts`; made when the first receipt is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, stage: str) -> Receipt | None:
        """Give a stage's receipt, None when there is none that can be trusted."""
        return _read_receipt(self._path(stage))

    def save(self, receipt: Receipt) -> None:
        """Write a receipt and forget the intent that came before it."""
        head = _ReceiptHead(stage=receipt.stage, key=receipt.key, outputs=receipt.outputs, earlier=receipt.earlier)
        body = {"format": _FORMAT, **encode(head), "result": receipt.result}
        self._make()
        text = json.dumps({**body, "sha256": _seal(body)}, indent=1, ensure_ascii=True)
        write_durably(self._path(receipt.stage), text + "\n")
        with disk_errors(self._folder):
            self._intent_path(receipt.stage).unlink(missing_ok=True)

    def intend(self, stage: str, outputs: tuple[FileDigest, ...]) -> None:
        """Record what a stage is about to publish."""
        self._make()
        write_durably(self._intent_path(stage), pretty_json(Intent(outputs=outputs)))

    def settle(self, receipt: Receipt) -> None:
        """Forget an intent that this receipt fulfilled; one that names other files still says whose they are."""
        path = self._intent_path(receipt.stage)
        if (outputs := _read_intent(path)) is not None and outputs == receipt.outputs:
            with disk_errors(path):
                path.unlink()

    def knows(self, name: str) -> bool:
        """Whether a receipt of any stage lists a published file of this name."""
        receipts = (_read_receipt(path) for path in sorted(self._folder.glob("*.json")))
        return any(
            name == output.name for receipt in receipts if receipt for output in receipt.outputs + receipt.earlier
        )

    def intended(self, name: str) -> tuple[str, ...]:
        """Give the digests under which killed runs may have published a file of this name."""
        intents = [_read_intent(path) or () for path in sorted(self._folder.glob("*.intent"))]
        return tuple(output.sha256 for outputs in intents for output in outputs if output.name == name)

    def _path(self, stage: str) -> Path:
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,40}", stage):
            raise ValueError(f"{stage!r} is no stage name")
        return self._folder / f"{stage}.json"

    def _intent_path(self, stage: str) -> Path:
        return self._path(stage).with_suffix(".intent")

    def _make(self) -> None:
        with disk_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            sync_folder(self._folder.parent)


class DigestBook:
    """Digests of inputs that have not changed since they were taken, so that gigabytes are read once.

    Args:
        path: `DIR/.packager/digests.json`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = {known.path: known for known in _read_known(path)}

    def digest(self, path: Path, *, emit: Emit, stage: str) -> FileDigest:
        """Give the digest of a file, from the book when size, times and inode are still the same."""
        with disk_errors(path):
            status = path.stat()
        name = str(path.absolute())
        state = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        known = self._known.get(name)
        if known is not None and (known.size_bytes, known.mtime_ns, known.ctime_ns, known.inode) == state:
            return FileDigest(name=path.name, size_bytes=status.st_size, sha256=known.sha256)
        started_ns = time.time_ns()
        sha256 = sha256_file(path, emit=emit, stage=stage)
        if started_ns - max(status.st_mtime_ns, status.st_ctime_ns) > _SETTLED_NS:
            self._known[name] = KnownDigest(
                path=name, size_bytes=state[0], mtime_ns=state[1], ctime_ns=state[2], inode=state[3], sha256=sha256
            )
        return FileDigest(name=path.name, size_bytes=status.st_size, sha256=sha256)

    def save(self) -> None:
        """Write the book for the next run."""
        write_durably(self._path, pretty_json(_KnownDigests(digests=tuple(self._known.values())), ascii_only=True))


def _read_known(path: Path) -> tuple[KnownDigest, ...]:
    try:
        return decode(_KnownDigests, json.loads(path.read_bytes()), where=path.name).digests
    except (OSError, ValueError, RecursionError, InputInvalid):
        return ()


def _read_intent(path: Path) -> tuple[FileDigest, ...] | None:
    try:
        return decode(Intent, json.loads(path.read_bytes()), where=path.name).outputs
    except (OSError, ValueError, RecursionError, InputInvalid):
        return None


def _read_receipt(path: Path) -> Receipt | None:
    try:
        if path.stat().st_size > _LIMIT_BYTES:
            return None
        body = json.loads(path.read_bytes())
        if not isinstance(body, dict) or body.pop("sha256", None) != _seal(body) or body.pop("format", None) != _FORMAT:
            return None
        result = body.pop("result")
        receipt = decode(_ReceiptHead, body, where=path.name)
    except (OSError, ValueError, KeyError, RecursionError, InputInvalid):
        return None
    if receipt.stage != path.stem or not all(_is_inside(output.name) for output in receipt.outputs + receipt.earlier):
        return None
    return Receipt(
        stage=receipt.stage, key=receipt.key, outputs=receipt.outputs, earlier=receipt.earlier, result=result
    )


@dataclass(frozen=True, kw_only=True)
class _ReceiptHead:
    """A receipt without its result, whose type only the stage's caller knows."""

    stage: str
    key: str
    outputs: tuple[FileDigest, ...]
    earlier: tuple[FileDigest, ...]


def _seal(body: Json) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and path.parts[0] != ".packager"
