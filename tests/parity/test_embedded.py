"""One file against the reference, with engine doubles: each fault in its own line of the verdict."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from packager.artifacts import Check, Outcome, Quant
from packager.engines.engine import NotSupported
from packager.engines.transformers import Answer
from packager.events import Advanced, Event, silent
from packager.evidence import Part
from packager.parity.embedded import embedded_findings, embedded_probes, match_answer
from packager.parity.findings import Findings
from packager.parity.gates import QuantGates
from packager.parity.steps import Steps
from packager.parity.truth import Answered, Truth
from tests.parity.engine_doubles import (
    BYE,
    HI,
    ODD,
    PIECES,
    REFUSED,
    ROWS,
    TOLD,
    Pupil,
    Rows,
    Teacher,
    answer_to,
    row,
    talk,
    truth_of,
)

GATES = QuantGates(mean_kl=0.01, first_kl=0.02, top1=0.9, answer_margin=0.2, prompt_kl=0.01, perplexity=1.3)
NO_TOKENIZER = NotSupported(code="NO_TOKENIZER", detail="cannot say")
NO_TEMPLATE = NotSupported(code="NO_TEMPLATE", detail="there is none")


def checks(pupil: Pupil, truth: Truth | None = None) -> dict[str, Check]:
    truth = truth or truth_of(HI, BYE, ODD)
    return {check.name: check for check in findings(pupil, truth).checks}


def findings(pupil: Pupil, truth: Truth) -> Findings:
    return embedded_findings(pupil, Quant.Q8_0, truth, GATES, Steps(99, silent))


def failed(found: dict[str, Check]) -> list[str]:
    return [name for name, check in found.items() if check.outcome is Outcome.FAILED]


def values(check: Check) -> dict[str, float]:
    return {measure.name: measure.value for measure in check.measures}


def kl(p: Rows, q: Rows) -> float:
    return sum(math.exp(a) * (float(a) - float(b)) for a, b in zip(p, q, strict=True))


def test_an_equal_engine_passes_every_line() -> None:
    found = checks(Pupil())
    assert list(found) == [
        "prompts",
        "token ids",
        "tokenizer",
        "distribution",
        "prompt distribution",
        "first token",
        "answers",
    ]
    assert {(check.subject, check.engine, check.outcome) for check in found.values()} == {
        ("q8_0", "llama.cpp", Outcome.PASSED)
    }
    assert values(found["token ids"]) == {"CORE equal": 2, "EXT equal": 1}
    same = {
        "mean KL": 0,
        "99 % KL": 0,
        "max KL": 0,
        "top-1 agreement": 1,
        "RMS probability": 0,
        "perplexity ratio": 1,
    }
    assert values(found["distribution"]) == {**same, "positions": 6}
    assert values(found["prompt distribution"]) == {**same, "positions": 6}
    assert values(found["answers"]) == {"margin where they part": 0, "equal answers": 2, "common prefix": 1}


@pytest.mark.parametrize(
    ("pupil", "lines", "detail"),
    [
        pytest.param(
            Pupil(prompts={"bye": "<bos><user>bye<assistant>"}),
            ["prompts"],
            "1 of 2 equal, odd ones 1 of 1; bye: character 11: reference '<bos><user>Bye<assistant>', "
            "engine '<bos><user>bye<assistant>'",
            id="another prompt",
        ),
        pytest.param(
            Pupil(ids={"hi": (1, 4, 2)}),
            ["token ids"],
            "1 of 2 equal, odd ones 1 of 1; hi: token 0: reference 0 '<bos>', engine 1 '<user>'",
            id="equal text and a lost BOS",
        ),
        pytest.param(
            Pupil(prompts={"hi": REFUSED}),
            ["prompts"],
            "1 of 2 equal, odd ones 1 of 1; hi: TEMPLATE_ERROR: roles must alternate",
            id="a template that trips in this engine alone",
        ),
        pytest.param(
            Pupil(ids={"hi": NO_TEMPLATE, "bye": NO_TEMPLATE}),
            ["token ids"],
            "0 of 2 equal, odd ones 1 of 1; hi: NO_TEMPLATE: there is none",
            id="no template in the file",
        ),
    ],
)
def test_a_core_difference_fails_its_own_line(pupil: Pupil, lines: list[str], detail: str) -> None:
    found = checks(pupil)
    assert failed(found) == lines
    assert found[lines[0]].detail == detail


def test_an_odd_conversations_difference_is_told_and_does_not_fail() -> None:
    found = checks(Pupil(prompts={"odd": "<bos>"}))["prompts"]
    assert found.outcome is Outcome.PASSED
    assert found.detail.startswith("2 of 2 equal, odd ones 0 of 1; odd: character 5:")


def test_an_engine_that_cannot_say_is_not_checked() -> None:
    found = checks(Pupil(ids={"hi": NO_TOKENIZER, "bye": NO_TOKENIZER, "odd": NO_TOKENIZER}))
    assert failed(found) == []
    assert (found["token ids"].outcome, found["token ids"].detail) == (Outcome.NOT_CHECKED, "NO_TOKENIZER: cannot say")


def test_what_the_reference_refuses_is_not_held_against_the_engine() -> None:
    found = checks(Pupil(), truth_of(HI, BYE, refuses=frozenset({"hi"})))
    assert found["prompts"].outcome is Outcome.PASSED
    assert found["prompts"].detail == "1 of 1 equal; not checked: hi: the reference refuses it (roles must alternate)"
    assert values(found["distribution"])["positions"] == 3


def test_the_references_own_ids_are_fed_up_to_the_last_but_one() -> None:
    pupil = Pupil(ids={"hi": (9,)})
    checks(pupil)
    assert pupil.fed == [((0, 1, 4, 2, 6, 7), 0), ((0, 1, 5, 2, 6, 7), 0)]


@pytest.mark.parametrize(
    ("position", "other", "lines"),
    [
        pytest.param(0, row(one=0.70), ["distribution", "first token"], id="at the first token"),
        pytest.param(2, row(end=0.60), ["distribution"], id="at the last token"),
        pytest.param(1, row(two=0.41, one=0.43), ["distribution"], id="two near-equal tokens change places"),
    ],
)
def test_a_distance_is_kl_from_the_reference(position: int, other: Rows, lines: list[str]) -> None:
    rows = ROWS.copy()
    rows[position] = other
    found = checks(Pupil(rows=rows))
    far = kl(ROWS[position], other)
    assert failed(found) == lines
    shown = values(found["distribution"])
    assert shown["mean KL"] == pytest.approx(far / 3, abs=1e-6)
    assert shown["max KL"] == pytest.approx(far, abs=1e-6)
    assert shown["top-1 agreement"] == pytest.approx(2 / 3 if position == 1 else 1, abs=1e-5)
    assert values(found["first token"])["mean KL"] == pytest.approx(far if position == 0 else 0, abs=1e-6)


@pytest.mark.parametrize(("engine", "reference"), [(2, 0), (0, 2)], ids=["engine's", "reference's"])
def test_rows_that_only_one_side_padded_are_left_out(engine: int, reference: int) -> None:
    truth = truth_of(HI)
    answer = truth.answered[0].answer
    for name in ("logprobs", "prompt_logprobs"):
        object.__setattr__(answer, name, padded(getattr(answer, name), reference))
    found = checks(Pupil(rows=padded(ROWS, engine), told=padded(TOLD[None], engine)[0]), truth)
    assert values(found["distribution"])["max KL"] == 0
    assert values(found["prompt distribution"])["max KL"] == 0


def padded(rows: Rows, columns: int) -> Rows:
    return np.pad(rows, ((0, 0), (0, columns)), constant_values=-50.0)


def test_prompt_positions_have_a_line_of_their_own() -> None:
    other = row(Hi=0.4)
    found = checks(Pupil(told=other))
    assert failed(found) == ["prompt distribution"]
    assert values(found["prompt distribution"])["mean KL"] == pytest.approx(kl(TOLD, other), abs=1e-6)
    assert values(found["distribution"])["mean KL"] == 0


def test_perplexity_and_probabilities_are_of_the_tokens_that_follow() -> None:
    rows = ROWS.copy()
    rows[0] = row(one=0.41)  # half as likely as to the reference
    found = values(checks(Pupil(rows=rows), truth_of(HI))["distribution"])
    assert found["perplexity ratio"] == pytest.approx(2 ** (1 / 3), rel=1e-5)
    assert found["RMS probability"] == pytest.approx(0.41 / math.sqrt(3), rel=1e-5)


def test_a_character_that_becomes_other_tokens_fails_the_tokenizer() -> None:
    found = checks(Pupil(unknown="é"))
    assert failed(found) == ["tokenizer"]
    assert "accents: " in found["tokenizer"].detail


def test_the_evidence_has_every_conversation_every_token_and_every_answer() -> None:
    rows = ROWS.copy()
    rows[1] = row(two=0.41, one=0.43)
    found = findings(Pupil(rows=rows, texts={"bye": "oneone"}), truth_of(HI, BYE, ODD))
    assert [(matrix.name, [cell.conversation for cell in matrix.cells]) for matrix in found.matrix] == [
        ("prompts", ["hi", "bye", "odd"]),
        ("token ids", ["hi", "bye", "odd"]),
    ]
    hi = found.positions[0]
    assert (hi.conversation, hi.tokens, hi.same_top) == ("hi", ("one", "two", "<end>"), (True, False, True))
    assert hi.kl == pytest.approx((0, kl(ROWS[1], rows[1]), 0), abs=1e-5)
    assert [(text.text, text.common_characters) for text in found.answers] == [("onetwo", 6), ("oneone", 3)]
    assert {(distance.subject, distance.engine) for distance in found.distances} == {("q8_0", "llama.cpp")}
    assert [(distance.part, distance.positions) for distance in found.distances] == [
        (Part.ANSWER, 6),
        (Part.PROMPT, 6),
    ]


def test_a_model_that_computes_no_numbers_fails() -> None:
    found = checks(Pupil(rows=np.full((3, len(PIECES)), np.nan, dtype=np.float32)))
    assert failed(found) == ["distribution", "first token"]
    assert "not a number" in found["first token"].detail
    assert "not a number" in found["distribution"].detail


@pytest.mark.parametrize(
    ("text", "outcome", "margin"),
    [
        pytest.param("oneone", Outcome.PASSED, math.log(0.44 / 0.40), id="it parts where the reference was undecided"),
        pytest.param("two", Outcome.FAILED, math.log(0.82 / 0.02), id="it parts where the reference was sure"),
        pytest.param(REFUSED, Outcome.FAILED, math.log(0.82 / 0.02), id="it gives no answer"),
    ],
)
def test_an_answer_is_judged_where_it_parts(text: str | NotSupported, outcome: Outcome, margin: float) -> None:
    found = checks(Pupil(texts={"bye": text}))["answers"]
    assert found.outcome is outcome
    assert values(found)["margin where they part"] == pytest.approx(margin, rel=1e-4)
    assert values(found)["equal answers"] == 1


def test_an_answer_is_compared_as_the_references_tokens() -> None:
    found = match_answer("hi", answer_to(HI), "oneHi", truth_of(HI))
    assert (found.conversation, found.common_tokens, found.reference_tokens) == ("hi", 1, 3)
    assert found.detail == "reference …'two', engine …'Hi'"


def test_three_answers_are_asked_and_progress_counts_every_question() -> None:
    truth, pupil, events = truth_of(HI, ODD, BYE, talk("c", "Hi"), talk("d", "Hi")), Pupil(), list[Event]()
    embedded_findings(pupil, Quant.Q8_0, truth, GATES, Steps(embedded_probes(5, 4, 0), events.append))
    assert pupil.answered == ["hi 32", "bye 32", "c 32"]
    steps = [event for event in events if isinstance(event, Advanced)]
    assert [event.done for event in steps] == list(range(1, 5 + 4 + 3 + 1))
    assert steps[-1].total == steps[-1].done
    assert [steps[at].detail for at in (0, 5, -1)] == [
        "llama.cpp q8_0: prompt hi",
        "llama.cpp q8_0: logits hi",
        "llama.cpp q8_0: answer c",
    ]


@pytest.mark.parametrize(
    ("core", "rows", "total"),
    [(2, 0, 14 + 2 + 2), (3, 0, 14 + 3 + 3), (6, 0, 14 + 6 + 3), (6, 9, 14 + 6 + 9 + 3)],
    ids=["2", "3", "6", "rows"],
)
def test_questions_are_counted_beforehand(core: int, rows: int, total: int) -> None:
    assert embedded_probes(14, core, rows) == total


def with_data(*left_out: str, label: str = "one") -> Truth:
    row = Teacher().follow(talk("line-1", "Hi"), label, max_tokens=1024)
    assert isinstance(row, Answer)
    data = (Answered(conversation=talk("line-1", "Hi"), answer=row),)
    return replace(truth_of(HI, BYE, ODD), data=data, left_out=left_out)


def test_the_users_data_has_a_line_and_distances_of_its_own() -> None:
    other = row(one=0.41)
    found = findings(Pupil(rows=np.stack([other, *ROWS[1:]])), with_data())
    line = next(check for check in found.checks if check.name == "your data")
    assert line.outcome is Outcome.FAILED
    assert values(line)["mean KL"] == pytest.approx(kl(ROWS[0], other) / 2, abs=1e-6)
    parts = {distance.part: distance.positions for distance in found.distances}
    assert parts == {Part.ANSWER: 6, Part.PROMPT: 6, Part.DATA_ANSWER: 2, Part.DATA_PROMPT: 3}


def test_the_users_texts_are_tokenized_too() -> None:
    classes = findings(Pupil(unknown="é"), with_data(label="é")).tokenizer
    yours = next(found for found in classes if found.name == "your data")
    assert (yours.texts, yours.differing) == (2, 1)


def test_rows_that_are_left_out_are_not_checked_and_say_so() -> None:
    lines = [c for c in findings(Pupil(), with_data("line-7: LENGTH: too long")).checks if c.name == "your data"]
    assert [line.outcome for line in lines] == [Outcome.PASSED, Outcome.NOT_CHECKED]
    assert lines[1].detail == "1 rows are left out; line-7: LENGTH: too long"


def test_without_data_there_is_no_line_of_it() -> None:
    assert "your data" not in checks(Pupil())


@pytest.mark.parametrize("broken", [0, 1], ids=["the first file", "the second"])
def test_of_two_files_the_tokenizer_that_differs_is_kept(broken: int) -> None:
    pupils = [Pupil(), Pupil()]
    pupils[broken] = Pupil(unknown="é")
    both = Findings(checks=())
    for pupil in pupils:
        both += findings(pupil, truth_of(HI))
    assert sum(found.differing for found in both.tokenizer) > 0


def test_a_healthy_tokenizer_is_kept_beside_findings_without_any() -> None:
    healthy = findings(Pupil(), truth_of(HI))
    for both in (healthy + Findings(checks=()), Findings(checks=()) + healthy):
        assert {found.differing for found in both.tokenizer} == {0}
