"""Measures against their limits: the lines of a verdict that have a number behind them."""

from __future__ import annotations

import math
import sys

from packager.artifacts import Check, Measure, Outcome
from packager.parity.answers import AnswerMatch
from packager.parity.gates import QuantGates
from packager.parity.logits import Distance

_NOT_A_NUMBER = sys.float_info.max


def measure(name: str, value: float, unit: str, limit: float | None = None, *, at_least: bool = False) -> Measure:
    """Give a measure rounded to six significant digits, which is more than a repeated run agrees on.

    A model that computes NaN is infinitely far away; JSON has neither, so the value is the largest number there is.
    """
    rounded = float(f"{value:.6g}") if math.isfinite(value) else _NOT_A_NUMBER
    return Measure(name=name, value=rounded, unit=unit, limit=limit, at_least=at_least)


def within(found: Measure) -> bool:
    """Whether a measure keeps its limit; one without a limit does."""
    if found.limit is None:
        return True
    return found.value >= found.limit if found.at_least else found.value <= found.limit


def distribution_checks(found: Distance, gates: QuantGates, *, subject: str, engine: str) -> tuple[Check, Check]:
    """Judge full distributions: `distribution` over all answer positions, `first token` over the first of each."""
    everywhere = (
        measure("mean KL", found.mean_kl, "nats", gates.mean_kl),
        measure("top-1 agreement", found.top1, "share", gates.top1, at_least=True),
        measure("max KL", found.max_kl, "nats"),
        measure("positions", found.positions, "tokens"),
    )
    first = (measure("mean KL", found.first_kl, "nats", gates.first_kl),)
    return (
        gated(everywhere, subject=subject, engine=engine, name="distribution"),
        gated(first, subject=subject, engine=engine, name="first token"),
    )


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
    return Check(
        subject=subject, engine=engine, name="answers", outcome=check.outcome, detail=detail, measures=check.measures
    )


def gated(measures: tuple[Measure, ...], *, subject: str, engine: str, name: str) -> Check:
    """Make a line of a verdict from measures: failed when one breaks its limit, which the line then names."""
    broken = [found for found in measures if not within(found)]
    shown = broken or [found for found in measures if found.unit != "tokens"]
    detail = ", ".join(_shown(found) for found in shown)
    outcome = Outcome.FAILED if broken else Outcome.PASSED
    return Check(subject=subject, engine=engine, name=name, outcome=outcome, detail=detail, measures=measures)


def _shown(found: Measure) -> str:
    text = f"{found.value:.1%}" if found.unit == "share" else f"{found.value:.2g} {found.unit}"
    if found.value == _NOT_A_NUMBER:
        text = "not a number"
    if within(found):
        return f"{found.name} {text}"
    limit = f"{found.limit:.1%}" if found.unit == "share" else f"{found.limit:g}"
    return f"{found.name} {text}, {'at least' if found.at_least else 'at most'} {limit}"
