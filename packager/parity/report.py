"""report.json: the verdict, the limits it was judged by, and the files it is about."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from packager import codec
from packager.artifacts import Gguf, Verdict
from packager.durable import disk_error, write_durably
from packager.errors import InputInvalid
from packager.evidence import Evidence
from packager.parity.gates import Gates

REPORT_NAME = "report.json"
_MAKE = "Make it with: packager verify DIR BASE ADAPTER"


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `report.json` holds.

    Attributes:
        verdict: Every check with its figures, and the versions of what was compared.
        gates: The limits.
        ggufs: The files, each by its name alone once it was written, because a report travels with its files.
        evidence: What stands behind the verdict.
    """

    verdict: Verdict
    gates: Gates
    ggufs: tuple[Gguf, ...]
    evidence: Evidence = field(default_factory=Evidence)


def write_report(report: Report, path: Path) -> Path:
    """Write a report, whole or not at all; equal reports give equal bytes, and no path of this machine is in them.

    Returns:
        `path`.
    """
    portable = replace(report, ggufs=tuple(replace(gguf, path=Path(gguf.path.name)) for gguf in report.ggufs))
    write_durably(path, codec.pretty_json(portable))
    return path


def read_report(path: Path) -> Report:
    """Read a report back; file names are relative to its folder.

    Raises:
        InputInvalid: Missing, not JSON, or not a report.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputInvalid(f"{path}: no such file", hint=_MAKE) from error
    except OSError as error:
        raise disk_error(error, path) from error
    except ValueError as error:
        raise InputInvalid(f"{path}: not JSON ({error})", hint=_MAKE) from error
    try:
        return codec.decode(Report, data, where=str(path))
    except InputInvalid as error:  # another version's, or none
        raise InputInvalid(error.message, hint=_MAKE) from error
