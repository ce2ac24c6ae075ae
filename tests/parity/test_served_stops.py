"""Where answers end, with the reference double's `onetwo<end>`: an end that is lost, one that is early, and a tie."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from packager.artifacts import Check, Outcome
from packager.engines.engine import NotSupported
from packager.engines.ollama_answers import ServedAnswer
from packager.parity.gates import QuantGates
from packager.parity.served_stops import Cut, cut_length, stops_check
from packager.parity.truth import ANSWER_TOKENS, Answered
from tests.parity.engine_doubles import BYE, END, HI, ONE, ROWS, TWO, answer_to, row, truth_of

GATES = QuantGates(mean_kl=0.01, first_kl=0.02, top1=0.9, answer_margin=0.2, prompt_kl=0.01, perplexity=1.3)
ENDED = ServedAnswer(
    content="onetwo", thinking="", end="stop", prompt_tokens=4, cached_tokens=0, answer_tokens=3, tokens=()
)
ON = dataclasses.replace(ENDED, content="onetwo one one", end="length", answer_tokens=32)
SILENT = dataclasses.replace(ENDED, end="length", answer_tokens=32)
CUT = Cut(
    conversation="hi", max_tokens=1, found=dataclasses.replace(ENDED, content="one", end="length", answer_tokens=1)
)


def check(*spoken: ServedAnswer, cut: Cut | None = CUT, rows: object = ROWS) -> Check:
    truth = truth_of(HI, BYE)
    pairs = [
        (Answered(conversation=one.conversation, answer=dataclasses.replace(one.answer, logprobs=rows)), answer)
        for one, answer in zip(truth.answered, spoken, strict=False)
    ]
    return stops_check(pairs, cut, truth, GATES, subject="q8_0", engine="ollama")


def test_an_answer_that_ends_with_the_reference() -> None:
    found = check(ENDED, ENDED)
    assert (found.outcome, found.name) == (Outcome.PASSED, "stops")
    assert found.detail == "2 of the 2 answers that the reference ended end there; one is cut after 1 tokens"
    assert [(measure.name, measure.value) for measure in found.measures] == [
        ("ended as the reference", 2),
        ("wrong ends", 0),
    ]


@pytest.mark.parametrize("count", [2, 4], ids=["without the end", "with a second one"])
def test_an_engine_may_count_the_end_or_not(count: int) -> None:
    assert check(dataclasses.replace(ENDED, answer_tokens=count)).outcome is Outcome.PASSED


@pytest.mark.parametrize(
    ("spoken", "detail"),
    [
        pytest.param(ON, "bye: the reference ends after 3 tokens, Ollama after 32 (length)", id="runs on"),
        pytest.param(
            SILENT, "bye: the reference ends after 3 tokens, Ollama after 32 (length)", id="runs on without a word"
        ),
        pytest.param(
            dataclasses.replace(ENDED, answer_tokens=9),
            "bye: the reference ends after 3 tokens, Ollama after 9 (stop)",
            id="ends late without a word",
        ),
        pytest.param(
            dataclasses.replace(ENDED, content="onetwo<end>"),
            "bye: the answer holds '<end>', which ends or begins a turn",
            id="says its own end",
        ),
        pytest.param(
            dataclasses.replace(ENDED, end=""), "bye: Ollama does not say how the answer ended", id="no reason"
        ),
        pytest.param(
            dataclasses.replace(ENDED, answer_tokens=None),
            "bye: Ollama does not say how the answer ended",
            id="no count",
        ),
    ],
)
def test_one_lost_end_fails(spoken: ServedAnswer, detail: str) -> None:
    found = check(ENDED, spoken)
    assert (found.outcome, found.detail) == (Outcome.FAILED, detail)
    assert found.measures[1].value == 1


def test_an_answer_that_left_before_its_end_shows_nothing() -> None:
    left = dataclasses.replace(ON, content="one one one")
    assert check(ENDED, left).outcome is Outcome.PASSED
    found = check(left)
    assert (found.outcome, found.detail) == (
        Outcome.NOT_CHECKED,
        "0 of the 1 answers that the reference ended end there: none shows whether it stops",
    )


def test_going_on_where_the_reference_was_undecided_is_no_lost_end() -> None:
    tie = np.stack([ROWS[0], ROWS[1], row(end=0.45, one=0.42)])
    assert check(ENDED, ON, rows=tie).outcome is Outcome.PASSED
    assert check(ENDED, SILENT, rows=tie).outcome is Outcome.FAILED


def test_an_answer_that_the_reference_did_not_end_asks_for_no_end() -> None:
    truth = truth_of(HI)
    ids = (ONE, TWO) * (ANSWER_TOKENS // 2)
    whole = dataclasses.replace(answer_to(HI), ids=ids, text="onetwo" * 16, logprobs=np.stack([ROWS[0]] * len(ids)))
    spoken = dataclasses.replace(ON, content=whole.text)
    asked = [(Answered(conversation=HI, answer=whole), spoken)]
    assert stops_check(asked, None, truth, GATES, subject="q8_0", engine="ollama").outcome is Outcome.NOT_CHECKED
    ended = dataclasses.replace(whole, ids=(*ids[:-1], END), text="onetwo" * 15 + "one")
    asked = [(Answered(conversation=HI, answer=ended), dataclasses.replace(spoken, content=ended.text))]
    assert stops_check(asked, None, truth, GATES, subject="q8_0", engine="ollama").outcome is Outcome.FAILED


@pytest.mark.parametrize(
    ("found", "detail"),
    [
        pytest.param(ENDED, "hi: asked for 1 tokens, Ollama gave 3 (stop)", id="not cut"),
        pytest.param(
            dataclasses.replace(CUT.found, end=""), "hi: asked for 1 tokens, Ollama gave 1 (no reason)", id="no reason"
        ),
        pytest.param(NotSupported(code="CONTEXT_FULL", detail="full"), "hi: CONTEXT_FULL: full", id="refused"),
    ],
)
def test_a_short_answer_is_cut_and_says_so(found: ServedAnswer | NotSupported, detail: str) -> None:
    judged = check(ENDED, cut=dataclasses.replace(CUT, found=found))
    assert (judged.outcome, judged.detail) == (Outcome.FAILED, detail)


@pytest.mark.parametrize(("count", "length"), [(None, 0), (1, 0), (2, 1), (9, 4)], ids=str)
def test_where_to_cut(count: int | None, length: int) -> None:
    assert cut_length(dataclasses.replace(ENDED, answer_tokens=count)) == length
