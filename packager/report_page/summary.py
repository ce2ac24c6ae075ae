"""The verdict of a report, and one row for each quant on each engine, as the page shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from packager.artifacts import Check, Gguf, Outcome, Quant
from packager.evidence import Part, PartDistance
from packager.parity.report import Report
from packager.report_page.figures import is_number, nats, ratio, share

ENGINES = ("llama.cpp", "ollama")
COLUMNS = ("mean_kl", "p99_kl", "top1", "perplexity", "answers")


@dataclass(frozen=True, kw_only=True)
class Open:
    """Checks that were not made for one reason: `subjects` are the quants it holds for."""

    subjects: tuple[str, ...]
    engine: str
    name: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Headline:
    """What the verdict amounts to, and how many checks stand behind it.

    Attributes:
        outcome: Failed when one check failed, passed when one passed and none failed, else not checked.
        passed: How many checks passed.
        failed: How many failed.
        unchecked: How many were not made.
        open: Why they were not, each reason once.
        first: The first that failed.
        recommended: The smallest file whose checks passed.
    """

    outcome: Outcome
    passed: int
    failed: int
    unchecked: int
    open: tuple[Open, ...]
    first: Check | None
    recommended: Gguf | None


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number with its limit, if it has one, and whether it breaks it; `text` is empty where nothing was measured."""

    text: str = ""
    limit: str = ""
    broken: bool = False


@dataclass(frozen=True, kw_only=True)
class EngineRow:
    """One engine's figures for one file, in the order of COLUMNS.

    Attributes:
        engine: Which one.
        figures: The numbers.
        outcome: What its checks amount to.
        unchecked: How many of them were not made.
        reasons: Details of those that were not made or failed: why there are no figures where there are none.
    """

    engine: str
    figures: tuple[Figure, ...]
    outcome: Outcome
    unchecked: int
    reasons: tuple[str, ...]

    @property
    def measured(self) -> bool:
        """Whether there is any figure."""
        return any(figure.text for figure in self.figures)


@dataclass(frozen=True, kw_only=True)
class QuantRows:
    """One file on every engine."""

    gguf: Gguf
    rows: tuple[EngineRow, ...]


def headline(report: Report) -> Headline:
    """Give what the verdict amounts to."""
    verdict = report.verdict
    outcomes = [check.outcome for check in verdict.checks]
    passing = [gguf for gguf in report.ggufs if verdict.passed_for(gguf.quant)]
    return Headline(
        outcome=_together(outcomes),
        passed=outcomes.count(Outcome.PASSED),
        failed=outcomes.count(Outcome.FAILED),
        unchecked=outcomes.count(Outcome.NOT_CHECKED),
        open=_open(verdict.checks),
        first=next((check for check in verdict.checks if check.outcome is Outcome.FAILED), None),
        recommended=passing[-1] if passing else None,
    )


def quant_rows(report: Report) -> tuple[QuantRows, ...]:
    """Give every file with its figures on both engines, in the order of the report."""
    return tuple(
        QuantRows(gguf=gguf, rows=tuple(_engine_row(report, gguf.quant, engine) for engine in ENGINES))
        for gguf in report.ggufs
    )


def distance_rows(report: Report) -> tuple[tuple[PartDistance, Figure], ...]:
    """Give every distance with its mean KL beside the limit that holds for its quant and part."""
    gates = {gguf.quant.value: report.gates.of(gguf.quant) for gguf in report.ggufs}
    rows = []
    for found in report.evidence.distances:
        figure = Figure(text=nats(found.mean_kl))
        if (limits := gates.get(found.subject)) and found.part is not Part.DATA_PROMPT:
            limit = limits.mean_kl if found.part is Part.ANSWER else limits.prompt_kl
            figure = _at_most(found.mean_kl, limit, nats)
        rows.append((found, figure))
    return tuple(rows)


def mean_kl(report: Report, subject: str, engine: str) -> float | None:
    """Give the mean KL over all answer positions in nats, from the evidence or else from the verdict's own measure."""
    found = answer_distance(report, subject, engine)
    return found.mean_kl if found is not None else measured(report, subject, engine, "distribution", "mean KL")


def answer_distance(report: Report, subject: str, engine: str) -> PartDistance | None:
    """Give the distance over the answers, if it was measured."""
    for found in report.evidence.distances:
        if (found.subject, found.engine, found.part) == (subject, engine, Part.ANSWER):
            return found
    return None


def measured(report: Report, subject: str, engine: str, check: str, measure: str) -> float | None:
    """Give one number of one check of the verdict, if it is there."""
    for line in report.verdict.checks:
        if (line.subject, line.engine, line.name) == (subject, engine, check):
            return next((found.value for found in line.measures if found.name == measure), None)
    return None


def unchecked(report: Report, names: Iterable[str], *, engines: bool = True) -> tuple[Open, ...]:
    """Give the checks of these names that were not made, and with `engines` those that stand for all of an engine's."""
    wanted = {*names, "all"} if engines else {*names}
    return _open(check for check in report.verdict.checks if check.name in wanted)


def _open(checks: Iterable[Check]) -> tuple[Open, ...]:
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for check in checks:
        if check.outcome is Outcome.NOT_CHECKED:
            reasons.setdefault((check.engine, check.name, check.detail), []).append(check.subject)
    return tuple(
        Open(subjects=tuple(subjects), engine=engine, name=name, detail=detail)
        for (engine, name, detail), subjects in reasons.items()
    )


def _engine_row(report: Report, quant: Quant, engine: str) -> EngineRow:
    subject, gates = quant.value, report.gates.of(quant)
    found = answer_distance(report, subject, engine)
    top1 = found.top1 if found else measured(report, subject, engine, "distribution", "top-1 agreement")
    checks = [check for check in report.verdict.checks if (check.subject, check.engine) == (subject, engine)]
    return EngineRow(
        engine=engine,
        figures=(
            _at_most(mean_kl(report, subject, engine), gates.mean_kl, nats),
            Figure(text=nats(found.p99_kl)) if found else Figure(),
            _at_least(top1, gates.top1),
            _at_most(found.perplexity_ratio if found else None, gates.perplexity, ratio),
            _equal_answers(report, subject, engine),
        ),
        outcome=_together(check.outcome for check in checks),
        unchecked=sum(check.outcome is Outcome.NOT_CHECKED for check in checks),
        reasons=tuple(check.detail for check in checks if check.outcome is not Outcome.PASSED),
    )


def _equal_answers(report: Report, subject: str, engine: str) -> Figure:
    """Give how many greedy answers are the reference's own; the check allows ties, so its outcome is what counts."""
    broken = any(
        check.outcome is Outcome.FAILED
        for check in report.verdict.checks
        if (check.subject, check.engine, check.name) == (subject, engine, "answers")
    )
    mine = [found for found in report.evidence.answers if (found.subject, found.engine) == (subject, engine)]
    if mine:
        return Figure(text=f"{sum(found.text == found.reference for found in mine)} / {len(mine)}", broken=broken)
    equal = measured(report, subject, engine, "answers", "equal answers")
    return Figure() if equal is None else Figure(text=f"{equal:.0f}", broken=broken)


def _at_most(value: float | None, limit: float | None, written: Callable[[float], str]) -> Figure:
    if value is None or limit is None:
        return Figure() if value is None else Figure(text=written(value))
    kept = is_number(value) and value <= limit
    return Figure(text=written(value), limit=f"≤ {limit:g}", broken=not kept)


def _at_least(value: float | None, limit: float | None) -> Figure:
    if value is None or limit is None:
        return Figure() if value is None else Figure(text=share(value))
    kept = is_number(value) and value >= limit
    return Figure(text=share(value), limit=f"≥ {share(limit)}", broken=not kept)


def _together(outcomes: Iterable[Outcome]) -> Outcome:
    """Give failed if one failed, passed if one passed, else not checked."""
    every = set(outcomes)
    if Outcome.FAILED in every:
        return Outcome.FAILED
    return Outcome.PASSED if Outcome.PASSED in every else Outcome.NOT_CHECKED
