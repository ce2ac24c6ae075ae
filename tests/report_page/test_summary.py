from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from packager.artifacts import Check, Outcome, Quant
from packager.report_page import summary
from packager.report_page.page import render_page
from tests.report_page import sample
from tests.report_page.reading import read


def with_outcomes(**outcomes: Outcome) -> sample.Report:
    """A report with one check for each quant, named by its field."""
    report = sample.old_report()
    checks = [
        Check(subject=subject, engine="llama.cpp", name="prompts", outcome=outcome, detail="")
        for subject, outcome in outcomes.items()
    ]
    return replace(report, verdict=replace(report.verdict, checks=tuple(checks)))


@pytest.mark.parametrize(
    ("outcomes", "outcome", "recommended"),
    [
        pytest.param({}, Outcome.NOT_CHECKED, None, id="nothing"),
        pytest.param({"f16": Outcome.NOT_CHECKED}, Outcome.NOT_CHECKED, None, id="not checked"),
        pytest.param({"f16": Outcome.PASSED, "q8_0": Outcome.NOT_CHECKED}, Outcome.PASSED, "f16", id="one passed"),
        pytest.param({"q8_0": Outcome.PASSED, "q4_k_m": Outcome.PASSED}, Outcome.PASSED, "q4_k_m", id="smallest"),
        pytest.param({"q8_0": Outcome.PASSED, "q4_k_m": Outcome.FAILED}, Outcome.FAILED, "q8_0", id="one failed"),
        pytest.param({"template": Outcome.FAILED, "f16": Outcome.PASSED}, Outcome.FAILED, None, id="what all share"),
    ],
)
def test_the_headline(outcomes: dict[str, Outcome], outcome: Outcome, recommended: str | None) -> None:
    head = summary.headline(with_outcomes(**outcomes))
    assert head.outcome is outcome
    assert (head.recommended.quant.value if head.recommended else None) == recommended
    assert head.passed + head.failed + head.unchecked == len(outcomes)


def test_reasons_stand_once_with_every_quant_they_hold_for() -> None:
    report = with_outcomes(f16=Outcome.NOT_CHECKED, q8_0=Outcome.NOT_CHECKED, q4_k_m=Outcome.PASSED)
    head = summary.headline(report)
    assert [(reason.subjects, reason.name) for reason in head.open] == [(("f16", "q8_0"), "prompts")]
    assert head.unchecked == 2
    assert summary.unchecked(report, ("prompts",)) == head.open
    assert summary.unchecked(report, ("answers",)) == ()


def test_all_of_an_engine_stands_for_each_of_its_checks() -> None:
    report = sample.full_report()
    assert [reason.detail for reason in summary.unchecked(report, ("answers",))] == ["no Ollama answered"]
    assert summary.unchecked(report, ("tensors",), engines=False) == ()


def test_figures_come_from_the_evidence_with_their_limits() -> None:
    rows = {row.gguf.quant: row.rows for row in summary.quant_rows(sample.full_report())}
    llama, ollama = rows[Quant.Q8_0]
    assert [figure.text for figure in llama.figures] == ["0.0065", "0.033", "97.2 %", "1.0032", "2 / 3"]
    assert [figure.limit for figure in llama.figures] == ["≤ 0.04", "", "≥ 85.0 %", "≤ 1.05", ""]
    assert not any(figure.broken for figure in (*llama.figures, *ollama.figures))
    assert ollama.figures[0].text == "0.0072"


def test_without_evidence_they_come_from_the_measures_of_the_verdict() -> None:
    rows = {row.gguf.quant: row.rows for row in summary.quant_rows(sample.old_report())}
    assert [figure.text for figure in rows[Quant.Q8_0][0].figures] == ["0.0065", "", "97.2 %", "", "3"]
    unmade = rows[Quant.F16][1]
    assert (unmade.measured, unmade.outcome, unmade.reasons) == (False, Outcome.NOT_CHECKED, ("no Ollama answered",))


def test_a_broken_limit_is_marked() -> None:
    rows = {row.gguf.quant: row.rows for row in summary.quant_rows(sample.failed_report())}
    assert [figure.broken for figure in rows[Quant.Q4_K_M][0].figures] == [True, False, True, False, False]
    assert rows[Quant.Q4_K_M][0].outcome is Outcome.FAILED


def test_what_is_not_a_number_breaks_every_limit() -> None:
    report = sample.full_report()
    lost = tuple(replace(found, mean_kl=sys.float_info.max) for found in report.evidence.distances)
    report = replace(report, evidence=replace(report.evidence, distances=lost))
    figure = summary.quant_rows(report)[0].rows[0].figures[0]
    assert (figure.text, figure.broken) == ("NaN", True)


def test_answers_are_judged_by_their_check_and_not_by_their_number() -> None:
    report = sample.full_report()
    checks = tuple(
        replace(check, outcome=Outcome.FAILED) if sample.key(check) == ("q8_0", "llama.cpp", "answers") else check
        for check in report.verdict.checks
    )
    report = replace(report, verdict=replace(report.verdict, checks=checks))
    rows = {row.gguf.quant: row.rows for row in summary.quant_rows(report)}
    assert rows[Quant.Q8_0][0].figures[4].broken
    assert rows[Quant.Q4_K_M][0].figures[4].text == "0 / 3"
    assert not rows[Quant.Q4_K_M][0].figures[4].broken


def test_prompts_and_answers_have_their_own_limits() -> None:
    found = [(row.subject, row.part.value, figure.limit) for row, figure in summary.distance_rows(sample.full_report())]
    assert ("q8_0", "answer", "≤ 0.04") in found
    assert ("q8_0", "prompt", "≤ 0.07") in found
    assert ("q8_0", "answers of your data", "≤ 0.07") in found
    assert ("q8_0", "prompts of your data", "") in found
    assert len(found) == 24


def test_a_distance_of_something_else_has_no_limit() -> None:
    report = sample.full_report()
    other = replace(report.evidence.distances[0], subject="somebody's file")
    report = replace(report, evidence=replace(report.evidence, distances=(other,)))
    assert [figure.limit for _, figure in summary.distance_rows(report)] == [""]


def test_what_an_engine_could_not_be_asked_stands_beside_what_passed() -> None:
    report = sample.full_report()
    checks = tuple(
        replace(check, outcome=Outcome.NOT_CHECKED) if sample.key(check) == ("q8_0", "ollama", "first token") else check
        for check in report.verdict.checks
    )
    report = replace(report, verdict=replace(report.verdict, checks=checks))
    row = summary.quant_rows(report)[1].rows[1]
    assert (row.outcome, row.unchecked) == (Outcome.PASSED, 1)
    assert "1 not checked" in read(render_page(report)).by_id("files").text()


def test_a_file_that_could_not_be_asked_says_why() -> None:
    report = sample.old_report()
    dead = Check(
        subject="f16", engine="llama.cpp", name="all", outcome=Outcome.FAILED, detail="llama.cpp cannot load it"
    )
    report = replace(report, verdict=replace(report.verdict, checks=(dead,)))
    assert "llama.cpp cannot load it" in read(render_page(report)).by_id("files").text()
