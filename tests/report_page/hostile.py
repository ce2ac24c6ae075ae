"""A report in which every text that comes from outside tries to be something else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TypeVar

from tests.report_page import sample

T = TypeVar("T")
TEXTS = (
    "<script>document.title = 'taken'</script>",
    "</style></script></title><img src=http://127.0.0.1:9/x onerror=alert(1)>",
    "\"><svg onload=alert(1)>' autofocus onfocus='alert(1)",
    "\x00\x1b[31m\x07\x9b\r",
    "\u202egnp.exe\u2066\u2069\u200f\u200b\ufeff",
    "{{ 7 * 7 }}{% raw %}{name}&lt;b&gt;&#60;",
    "javascript:alert(1)//<!--",
    "]]></desc><a href=https://example.com>x</a>",
    "\ud83d half",
    "W" * 400,
)
# Where the page looks a value up, or does arithmetic on it: these stay, so that the rest is shown at all.
KEPT = frozenset({"sha256", "group", "common_characters"})


def hostile_report() -> sample.Report:
    """The failed report with a hostile text put into every text of it, another one in each place."""
    texts = _endless()
    report = sample.failed_report()
    spoiled = spoil(report.evidence, texts)
    return replace(
        report,
        verdict=spoil(report.verdict, texts),
        ggufs=tuple(replace(gguf, path=Path(f"{next(texts).replace(chr(0), '')}.gguf")) for gguf in report.ggufs),
        evidence=replace(spoiled, distances=report.evidence.distances),
    )


def spoil(value: T, texts: Iterator[str]) -> T:
    """Put a hostile text behind every text at any depth."""
    if isinstance(value, Enum) or value is None:
        return value
    if isinstance(value, str):
        return value + next(texts)  # type: ignore[return-value]
    if isinstance(value, tuple):
        return tuple(spoil(item, texts) for item in value)  # type: ignore[return-value]
    if is_dataclass(value):
        changed = {f.name: spoil(getattr(value, f.name), texts) for f in fields(value) if f.name not in KEPT}
        return replace(value, **changed)  # type: ignore[type-var]
    return value


def _endless() -> Iterator[str]:
    while True:
        yield from TEXTS
