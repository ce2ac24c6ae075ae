"""What an adapter recorded about the base it was trained on, against the base that is at hand.

A folder can have any name, and a model copies under other owners' names, so a name that differs proves nothing by itself. It
does where both models are of one owner on the hub, and where both names are of one family and have a size, as `Qwen2.5-7B` and
`Qwen2.5-7B-Instruct` have.
"""

from __future__ import annotations

import re
from pathlib import Path

from packager.artifacts import Checkpoint
from packager.errors import InputInvalid
from packager.formats.json_file import JsonObject

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")
# What a quantized copy of a model has behind the name of the 16-bit one.
_QUANTIZED = re.compile(r"(-unsloth)?-(bnb-4bit|bnb-8bit|4bit|8bit|awq|gptq(-int[48])?|fp8)$", re.IGNORECASE)
_SIZE = re.compile(r"(?<![a-z0-9])\d+(\.\d+)?[bm](?![a-z0-9])", re.IGNORECASE)


def full_precision_name(name: str) -> str:
    """Give the name of the model that a quantized copy was made from: `unsloth/Qwen3-8B-bnb-4bit` gives `unsloth/Qwen3-8B`."""
    return _QUANTIZED.sub("", name)


def trained_on(base_name: str | None, base: Checkpoint) -> str:
    """Give the hint for an adapter that does not fit its base."""
    if base_name is None or Path(base_name).name == base.name:
        return "Pass the base this adapter was trained on."
    return f"Pass the base this adapter was trained on: it recorded {base_name}, not {base.name}."


def check_recorded_base(config: JsonObject, base: Checkpoint) -> None:
    """Refuse a base that is provably not the recorded one.

    Raises:
        InputInvalid: The names or the revisions differ; the message has both.
    """
    recorded = config.text("base_model_name_or_path") or ""
    if not _HUB_NAME.fullmatch(recorded):
        return  # a folder of the machine that trained it
    wanted, found = _plain(recorded), _plain(base.name)
    hub = _hub_snapshot(base.folder)
    alike = bool(_SIZE.search(wanted)) and bool(_SIZE.search(found)) and _family(wanted) == _family(found)
    if wanted != found and (alike or recorded.split("/")[0] == _hub_owner(base.folder)):
        raise InputInvalid(
            f"{config.path}: was trained on {recorded}, not on {base.name}",
            hint=f"Pass {recorded} as the base. If {base.folder} is that model, give the folder its name.",
        )
    revision = config.text("revision") or ""
    if hub is not None and wanted == found and _COMMIT.fullmatch(revision) and revision != hub:
        raise InputInvalid(
            f"{config.path}: was trained on revision {revision} of {recorded}, {base.folder} is {hub}",
            hint=f"Pass that revision of {recorded}.",
        )


def _hub_snapshot(folder: Path) -> str | None:
    full = folder.absolute()
    inside = full.parent.name == "snapshots" and full.parent.parent.name.startswith("models--")
    return full.name if inside and _COMMIT.fullmatch(full.name) else None


def _hub_owner(folder: Path) -> str | None:
    match = re.fullmatch(r"models--(?P<owner>.+?)--.+", folder.absolute().parent.parent.name)
    return match["owner"] if match and _hub_snapshot(folder) is not None else None


def _plain(name: str) -> str:
    return full_precision_name(name).rsplit("/", 1)[-1].lower()


def _family(name: str) -> str:
    match = re.match(r"[a-z]+", name)
    return match[0] if match else ""
