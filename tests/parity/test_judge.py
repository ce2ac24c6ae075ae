from __future__ import annotations

import math

import pytest

from packager.artifacts import Check, Outcome
from packager.evidence import Part, PartDistance
from packager.parity.answers import AnswerMatch
from packager.parity.gates import QuantGates
from packager.parity.judge import (
    answers_check,
    distribution_check,
    first_token_check,
    gated,
    measure,
    prompt_check,
    within,
)

GATES = QuantGates(mean_kl=0.05, first_kl=0.1, top1=0.9, answer_margin=0.5, prompt_kl=0.2, perplexity=1.1)


def found(**changes: float) -> PartDistance:
    values = {"mean_kl": 0.01, "p99_kl": 0.15, "max_kl": 0.2, "top1": 0.95, "rms_probability": 0.03, **changes}
    values.setdefault("perplexity_ratio", 1.01)
    return PartDistance(subject="q8_0", engine="llama.cpp", part=Part.ANSWER, positions=70, **values)


def match(*, equal: bool = False, common: int = 3, margin: float = 0.1) -> AnswerMatch:
    detail = "" if equal else "reference …'a', engine …'b'"
    return AnswerMatch(
        conversation="hello", equal=equal, common_tokens=common, reference_tokens=10, margin_nats=margin, detail=detail
    )


def test_without_a_limit_nothing_is_checked_and_the_figures_stand() -> None:
    """A type that was not measured never passes."""
    unknown = QuantGates()
    checks = (
        distribution_check(found(), unknown),
        prompt_check(found(), unknown),
        first_token_check(0.01, unknown, subject="iq2_s", engine="llama.cpp"),
        answers_check((match(), match(equal=True)), unknown, subject="iq2_s", engine="llama.cpp"),
    )
    for check in checks:
        assert check.outcome is Outcome.NOT_CHECKED
        assert "no limit was measured for this type" in check.detail
    assert checks[0].detail.startswith("mean KL 0.01 nats, top-1 agreement 95.0%")
    assert checks[0].measures[0].value == 0.01
    one = distribution_check(found(), QuantGates(top1=0.9))  # --gate iq2_s.top1=0.9
    assert one.outcome is Outcome.PASSED
    assert distribution_check(found(), QuantGates(top1=0.99)).outcome is Outcome.FAILED


@pytest.mark.parametrize(
    ("value", "limit", "at_least", "kept"),
    [
        pytest.param(0.1, 0.1, False, True, id="at the limit"),
        pytest.param(0.11, 0.1, False, False, id="above the most"),
        pytest.param(0.9, 0.9, True, True, id="at the least"),
        pytest.param(0.89, 0.9, True, False, id="below the least"),
        pytest.param(9.0, None, False, True, id="no limit"),
        pytest.param(math.nan, 0.1, False, False, id="not a number is never within"),
        pytest.param(math.inf, 0.1, False, False, id="nor is infinity"),
    ],
)
def test_a_limit(value: float, limit: float | None, at_least: bool, kept: bool) -> None:
    assert within(measure("x", value, "nats", limit, at_least=at_least)) is kept


def test_measures_are_rounded() -> None:
    assert measure("x", 0.123456789, "nats").value == 0.123457


def test_distributions_within_their_limits_pass() -> None:
    answers, prompts = distribution_check(found(), GATES), prompt_check(found(), GATES)
    first = first_token_check(0.02, GATES, subject="q8_0", engine="llama.cpp")
    assert (answers.name, answers.outcome) == ("distribution", Outcome.PASSED)
    assert (prompts.name, prompts.outcome) == ("prompt distribution", Outcome.PASSED)
    shown = "mean KL 0.01 nats, top-1 agreement 95.0%, perplexity ratio 1.0100, 99 % KL 0.15 nats"
    assert answers.detail == prompts.detail == shown
    assert (first.name, first.outcome, first.detail) == ("first token", Outcome.PASSED, "mean KL 0.02 nats")


@pytest.mark.parametrize(
    ("check", "detail"),
    [
        pytest.param(
            distribution_check(found(mean_kl=0.06), GATES), "mean KL 0.06 nats, at most 0.05", id="too far on average"
        ),
        pytest.param(
            distribution_check(found(top1=0.5), GATES),
            "top-1 agreement 50.0%, at least 90.0%",
            id="other choices",
        ),
        pytest.param(
            distribution_check(found(perplexity_ratio=1.2), GATES),
            "perplexity ratio 1.2000, at most 1.1",
            id="less sure of the answers",
        ),
        pytest.param(
            prompt_check(found(mean_kl=0.3), GATES), "mean KL 0.3 nats, at most 0.2", id="too far along the prompts"
        ),
        pytest.param(
            first_token_check(0.2, GATES, subject="q8_0", engine="llama.cpp"),
            "mean KL 0.2 nats, at most 0.1",
            id="another first token",
        ),
        pytest.param(
            first_token_check(math.nan, GATES, subject="q8_0", engine="llama.cpp"),
            "mean KL not a number, at most 0.1",
            id="not a number",
        ),
    ],
)
def test_a_broken_limit_is_named(check: Check, detail: str) -> None:
    assert (check.outcome, check.detail) == (Outcome.FAILED, detail)


def test_prompts_have_one_limit() -> None:
    assert prompt_check(found(top1=0.1, perplexity_ratio=9), GATES).outcome is Outcome.PASSED


def test_equal_answers_pass() -> None:
    check = answers_check((match(equal=True, common=10, margin=0.0),) * 2, GATES, subject="f16", engine="llama.cpp")
    assert (check.outcome, check.detail) == (Outcome.PASSED, "2 of 2 equal, 20 of 20 tokens in common")


def test_answers_may_part_where_the_reference_was_undecided() -> None:
    check = answers_check((match(margin=0.4), match(equal=True, margin=0)), GATES, subject="f16", engine="llama.cpp")
    assert check.outcome is Outcome.PASSED
    assert check.detail == (
        "1 of 2 equal, 6 of 20 tokens in common; hello: reference …'a', engine …'b' (margin 0.4 nats)"
    )


def test_answers_may_not_part_where_the_reference_was_sure() -> None:
    check = answers_check((match(margin=0.2), match(margin=3.0)), GATES, subject="f16", engine="llama.cpp")
    assert check.outcome is Outcome.FAILED
    assert check.detail.endswith("(margin 3 nats, at most 0.5)")


def test_a_check_shows_only_what_broke() -> None:
    measures = (measure("a", 2, "nats", 1.0), measure("b", 0, "nats", 1.0), measure("n", 7, "tokens"))
    assert gated(measures, subject="f16", engine="x", name="y").detail == "a 2 nats, at most 1"
