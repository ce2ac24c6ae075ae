"""report.html: what `report.json` holds as one page that opens anywhere and asks nobody for anything.

The page is a pure function of the report: no date, no path of this machine. Model output, templates and file names in it are
hostile input. They reach the page through jinja2's escaping, with what cannot be seen written out, and the page's own
content security policy lets no script run but the one it is made with, and nothing load at all.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from packager.artifacts import Check, Outcome
from packager.durable import write_durably
from packager.parity.report import Report
from packager.report_page import figures, plots, sections, summary
from packager.report_page.words import LANGUAGES, both, load_words, named, verbatim

PAGE_NAME = "report.html"
_SECTIONS = (
    "files", "checks", "prompts", "tokenizer", "distance", "positions", "tensors", "answers", "provenance"
)  # fmt: skip
_HERE = Path(__file__).parent


def render_page(report: Report) -> str:
    """Give the page of a report; equal reports give equal text."""
    script = (_HERE / "script.js").read_text(encoding="utf-8")
    name = _name(report)
    return (
        _environment()
        .get_template("page.html.jinja")
        .render(
            report=report,
            evidence=report.evidence,
            blame=report.evidence.blame,
            name=name,
            title_en=_title(name, LANGUAGES[0]),
            title_zh=_title(name, LANGUAGES[1]),
            head=summary.headline(report),
            quants=summary.quant_rows(report),
            columns=summary.COLUMNS,
            subjects=_by_subject(report.verdict.checks),
            matrix=sections.matrix(report),
            tokenizer=sections.tokenizer(report),
            not_checked=Outcome.NOT_CHECKED,
            kl=plots.kl_plot(report),
            distances=summary.distance_rows(report),
            strips=sections.strips(report),
            tensors=plots.tensor_plots(report),
            tensor_rows=sections.tensor_rows(report),
            answers=sections.side_by_side(report),
            inputs=sections.inputs(report),
            outputs=sections.outputs(report),
            unchecked=functools.partial(summary.unchecked, report),
            sections=_SECTIONS,
            style=Markup((_HERE / "style.css").read_text(encoding="utf-8")),  # noqa: S704  # our own files
            script=Markup(script),  # noqa: S704
            script_hash=_csp_hash(script),
        )
    )


def write_page(page: str, path: Path) -> Path:
    """Write a page, whole or not at all.

    Returns:
        `path`.

    Raises:
        NoSpace: The disk is full.
        InputInvalid: The folder cannot be written.
    """
    write_durably(path, page)
    return path


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printed,
    )
    environment.globals.update(
        t=both,
        named=named,
        verbatim=verbatim,
        nats=figures.nats,
        share=figures.share,
        percent=figures.percent,
        ratio=figures.ratio,
        size=figures.size,
        token_text=figures.token_text,
        is_over=plots.is_over,
    )
    return environment


def _printed(value: object) -> object:
    """Write out what cannot be seen in every text that the template prints; Markup went through this before."""
    return figures.seen(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _name(report: Report) -> str:
    """Give the build's name, or else the name of its first file."""
    if report.evidence.subject is not None:
        return report.evidence.subject.name
    return report.ggufs[0].path.stem if report.ggufs else ""


def _title(name: str, language: str) -> str:
    """Give the title of the browser's window."""
    return load_words()["page.window"].of(language).format(name=figures.seen(name))


def _by_subject(checks: tuple[Check, ...]) -> tuple[tuple[str, tuple[Check, ...]], ...]:
    return tuple((subject, tuple(found)) for subject, found in groupby(checks, key=lambda check: check.subject))


def _csp_hash(script: str) -> str:
    """Give the source expression that lets exactly this script run (Content Security Policy Level 3, section 2.3.1)."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
