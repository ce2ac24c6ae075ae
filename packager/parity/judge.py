"""Measures against their limits: the lines of a verdict that have a number behind them."""

from __future__ import annotations

from packager.artifacts import Check, Measure, Outcome
from packager.evidence import PartDistance
from packager.parity.answers import AnswerMatch
from packager.parity.gates import QuantGates
from packager.parity.logits import NOT_A_NUMBER, finite

_NO_LIMIT = "no limit was measured for this type (docs/gates.md): set one with --gate"
_SHOWN = 4  # measures on the line of a check that passed; report.json has them all


def measure(name: str, value: float, unit: str, limit: float | None = None, *, at_least: bool = False) -> Measure:
    """Give a measure, rounded as `packager.parity.logits.finite` does."""
    return Measure(name=name, value=finite(value), unit=unit, limit=limit, at_least=at_least)


def within(found: Measure) -> bool:
    """Whether a measure keeps its limit; one without a limit does."""
    if found.limit is None:
        return True
    return found.value >= found.limit if found.at_least else found.value <= found.limit


def distribution_check(found: PartDistance, gates: QuantGates) -> Check:
    """Judge the distributions along the answers."""
    return _distribution(found, "distribution", mean_kl=gates.mean_kl, top1=gates.top1, perplexity=gates.perplexity)


def prompt_check(found: PartDistance, gates: QuantGates) -> Check:
    """Judge the distributions along the prompts."""
    return _distribution(found, "prompt distribution", mean_kl=gates.prompt_kl)


def data_check(found: PartDistance, gates: QuantGates) -> Check:
    """Judge the distributions along the answers of the user's data: text of other writers, as prompts are."""
    return _distribution(found, "your data", mean_kl=gates.prompt_kl)


def first_token_check(mean_kl: float, gates: QuantGates, *, subject: str, engine: str) -> Check:
    """Judge the distributions of the first token of each answer, what a user meets first."""
    measures = (measure("mean KL", mean_kl, "nats", gates.first_kl),)
    return gated(measures, subject=subject, engine=engine, name="first token")


def _distribution(
    found: PartDistance,
    name: str,
    *,
    mean_kl: float | None,
    top1: float | None = None,
    perplexity: float | None = None,
) -> Check:
    measures = (
        measure("mean KL", found.mean_kl, "nats", mean_kl),
        measure("top-1 agreement", found.top1, "share", top1, at_least=True),
        measure("perplexity ratio", found.perplexity_ratio, "", perplexity),
        measure("99 % KL", found.p99_kl, "nats"),
        measure("max KL", found.max_kl, "nats"),
        measure("RMS probability", found.rms_probability, "share"),
        measure("positions", found.positions, "tokens"),
    )
    return gated(measures, subject=found.subject, engine=found.engine, name=name)


def answers_check(matches: tuple[AnswerMatch, ...], gates: QuantGates, *, subject: str, engine: str) -> Check:
    """Judge greedy answers by how sure the reference was of the token where each parts from it."""
    shared = sum(match.common_tokens for match in matches)
    total = sum(match.reference_tokens for match in matches)
    worst = max(matches, key=lambda match: match.margin_nats)
    check = gated(
        (
            measure("margin where they part", worst.margin_nats, "nats", gates.answer_margin),
            measure("equal answers", sum(match.equal for match in matches), "answers"),
            measure("common prefix", shared / total, "share"),
        ),
        subject=subject,
        engine=engine,
        name="answers",
    )
    detail = f"{sum(match.equal for match in matches)} of {len(matches)} equal, {shared} of {total} tokens in common"
    if worst.detail:
        detail += f"; {worst.conversation}: {worst.detail} (margin {worst.margin_nats:.2g} nats"
        detail += f", at most {gates.answer_margin:g})" if check.outcome is Outcome.FAILED else ")"
    if check.outcome is Outcome.NOT_CHECKED:
        detail += f"; {_NO_LIMIT}"
    return Check(
        subject=subject, engine=engine, name="answers", outcome=check.outcome, detail=detail, measures=check.measures
    )


def gated(measures: tuple[Measure, ...], *, subject: str, engine: str, name: str) -> Check:
    """Make a line of a verdict from measures: failed when one breaks its limit, which the line then names.

    Where none of them has a limit, they are shown and nothing was checked.
    """
    broken = [found for found in measures if not within(found)]
    shown = broken or [found for found in measures if found.unit != "tokens"][:_SHOWN]
    detail = ", ".join(_shown(found) for found in shown)
    outcome = Outcome.FAILED if broken else Outcome.PASSED
    if all(found.limit is None for found in measures):
        outcome, detail = Outcome.NOT_CHECKED, f"{detail}; {_NO_LIMIT}"
    return Check(subject=subject, engine=engine, name=name, outcome=outcome, detail=detail, measures=measures)


def _shown(found: Measure) -> str:
    text = f"{found.value:.1%}" if found.unit == "share" else f"{found.value:.2g} {found.unit}"
    if not found.unit:
        text = f"{found.value:.4f}"
    if found.value == NOT_A_NUMBER:
        text = "not a number"
    if within(found):
        return f"{found.name} {text}"
    limit = f"{found.limit:.1%}" if found.unit == "share" else f"{found.limit:g}"
    return f"{found.name} {text}, {'at least' if found.at_least else 'at most'} {limit}"
