"""Places of an answer in Ollama, with engine doubles: those of its own answer, those of continued text, and those left out."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from packager.artifacts import Check, Outcome
from packager.engines.engine import NotSupported, TokenLogprob
from packager.engines.ollama_answers import ServedAnswer, SpokenToken
from packager.parity.findings import Findings
from packager.parity.gates import QuantGates
from packager.parity.served_distribution import SAME_FILE_KL, distribution_findings, follow, own_places
from packager.parity.shown import ShownVocabulary
from packager.parity.truth import ANSWER_TOKENS, Answered
from tests.parity.engine_doubles import (
    BYE,
    END,
    HI,
    ONE,
    REFUSED,
    ROWS,
    SPOKEN,
    TWO,
    Pupil,
    Rows,
    Served,
    answer_to,
    listed,
    prompt_of,
    row,
    truth_of,
)

GATES = QuantGates(mean_kl=0.01, first_kl=0.02, top1=0.9, answer_margin=0.2, prompt_kl=0.01, perplexity=1.3)
VOCABULARY = ShownVocabulary(Pupil().spoken)
FAR: Rows = np.stack([row(one=0.5, two=0.2), *ROWS[1:]])


def said(*texts: str, end: str = "stop", hidden: int = 0) -> ServedAnswer:
    """An answer of tokens that are each the likeliest at their place, and `hidden` ones without an entry."""
    tokens = tuple(SpokenToken(text=text, top=(TokenLogprob(text=text, logprob=-0.1),)) for text in texts)
    count = len(texts) + (end == "stop") + hidden
    return ServedAnswer(
        content="".join(texts),
        thinking="",
        end=end,
        prompt_tokens=4,
        cached_tokens=0,
        answer_tokens=count,
        tokens=tokens,
    )


def findings(served: Served, file: Pupil | None = None, **changes: object) -> Findings:
    truth = truth_of(HI, BYE)
    followed = []
    for answered in truth.answered:
        one = Answered(conversation=answered.conversation, answer=dataclasses.replace(answered.answer, **changes))
        spoken = served.answer(one.conversation, max_tokens=ANSWER_TOKENS, top_logprobs=20)
        assert isinstance(spoken, ServedAnswer)
        prompt = served.render(one.conversation)
        followed.append(follow(served, one, prompt, spoken, file or Pupil(), VOCABULARY, beside_file=True))
    return distribution_findings(followed, truth, GATES, subject="q8_0", engine="ollama")


def checks(served: Served, file: Pupil | None = None, **changes: object) -> dict[str, Check]:
    return {check.name: check for check in findings(served, file, **changes).checks}


def values(check: Check) -> dict[str, float]:
    return {measure.name: measure.value for measure in check.measures}


class TestOwnPlaces:
    @pytest.mark.parametrize(
        ("spoken", "places"),
        [
            pytest.param(said("one", "two"), 2, id="the reference's answer, whose end has no entry"),
            pytest.param(said("one", "two", "?", end="length"), 3, id="on after its end"),
            pytest.param(said("one", "one", "two"), 2, id="up to and with its first other token"),
            pytest.param(said("two"), 1, id="another first token"),
            pytest.param(said("one", "two", hidden=1), 0, id="a token without an entry somewhere"),
            pytest.param(said(), 0, id="nothing but an end"),
        ],
    )
    def test_how_far_an_answer_goes_along_with_the_reference(self, spoken: ServedAnswer, places: int) -> None:
        assert len(own_places(spoken, SPOKEN, VOCABULARY)) == places

    def test_text_that_was_held_back_has_no_place(self) -> None:
        held = SpokenToken(text="onetwo", top=(TokenLogprob(text="two", logprob=-0.1),))
        assert own_places(dataclasses.replace(said("x"), tokens=(held,)), SPOKEN, VOCABULARY) == ()

    def test_a_token_without_probabilities(self) -> None:
        bare = dataclasses.replace(said("x"), tokens=(SpokenToken(text="x", top=()),))
        assert own_places(bare, SPOKEN, VOCABULARY) == ()

    def test_without_a_count_it_is_not_known_which_tokens_are_shown(self) -> None:
        assert own_places(dataclasses.replace(said("one"), answer_tokens=None), SPOKEN, VOCABULARY) == ()


@pytest.mark.parametrize(
    ("served", "continued"),
    [
        pytest.param(Served(), ["onetwo"], id="behind an equal answer"),
        pytest.param(Served(texts={"hi": "two", "bye": "two"}, rows=np.stack([row(two=0.9), *ROWS[1:]])),
                     ["one", "onetwo"], id="from where it left"),
        pytest.param(Served(changes={"tokens": ()}), ["", "one", "onetwo"], id="everywhere"),
    ],
)  # fmt: skip
def test_the_references_text_is_continued_where_its_own_answer_shows_nothing(
    served: Served, continued: list[str]
) -> None:
    findings(served)
    start = prompt_of(HI).removeprefix("<bos>")
    assert served.continued[: len(continued)] == [start + text for text in continued]


def test_figures_are_those_of_the_rows() -> None:
    served = Served(rows=FAR)
    found = checks(served)
    kl = sum(float(np.exp(p) * (p - q)) for p, q in zip(ROWS[0], FAR[0], strict=True))
    assert values(found["distribution"]) == {
        "mean KL": pytest.approx(kl / 3, rel=1e-4),
        "top-1 agreement": 1,
        "perplexity ratio": pytest.approx((0.82 / 0.5) ** (1 / 3), rel=1e-4),
        "99 % KL": pytest.approx(kl, rel=1e-4),
        "max KL": pytest.approx(kl, rel=1e-4),
        "RMS probability": pytest.approx((0.82 - 0.5) / math.sqrt(3), rel=1e-4),
        "positions": 6,
    }
    assert found["distribution"].outcome is Outcome.FAILED
    assert values(found["first token"]) == {"mean KL over the top 20": pytest.approx(kl, rel=1e-4)}
    assert found["first token"].outcome is Outcome.FAILED


@pytest.mark.parametrize(
    ("file", "outcome"),
    [
        pytest.param(Pupil(rows=FAR), Outcome.PASSED, id="the file that is served"),
        pytest.param(Pupil(), Outcome.FAILED, id="another one"),
    ],
)
def test_what_is_served_is_held_to_its_own_file(file: Pupil, outcome: Outcome) -> None:
    found = checks(Served(rows=FAR), file)["same file"]
    assert found.outcome is outcome
    assert found.measures[0].limit == SAME_FILE_KL["q8_0"]
    assert [start for _, start in file.fed] == [3, 3]


def test_a_place_that_is_read_as_other_tokens_is_left_out_and_counted() -> None:
    """The reference's "on" "e" is "one" to whoever reads the text; here a second ONE stands for such a token."""
    file = Pupil(unknown="onetwo")
    found = checks(Served(), file)["distribution"]
    assert found.outcome is Outcome.PASSED
    assert values(found)["positions"] == 4
    assert values(found)["left out"] == 2
    assert found.detail.endswith(
        "; 2 places left out (OTHER_TOKENS: its text is read as other tokens than the reference's)"
    )
    assert findings(Served(), Pupil(unknown="onetwo")).positions == ()


@pytest.mark.parametrize(
    ("served", "reason"),
    [
        pytest.param(
            Served(changes={"tokens": ()}, continues=NotSupported(code="NO_LOGPROBS", detail="none")),
            "NO_LOGPROBS: none",
            id="no probabilities",
        ),
        pytest.param(
            Served(changes={"tokens": ()}, prompts={"hi": REFUSED, "bye": REFUSED}),
            "TEMPLATE_ERROR: roles must alternate",
            id="no prompt",
        ),
    ],
)
def test_without_a_single_place_nothing_is_checked(served: Served, reason: str) -> None:
    found = checks(served)
    assert {check.outcome for check in found.values()} == {Outcome.NOT_CHECKED}
    assert {check.detail for check in found.values()} == {reason}
    # What is not shown at one place is not asked for at the next.
    assert len(served.continued) <= len(SPOKEN)


def test_a_place_inside_a_character_is_left_out() -> None:
    class Halved(Pupil):
        @property
        def pieces(self) -> tuple[bytes, ...]:  # type: ignore[override]
            whole = list(super().pieces)
            whole[TWO] = b"\xf0\x9f"
            return tuple(whole)

    found = checks(Served(), Halved())["distribution"]
    assert "1 places left out" not in found.detail
    assert "2 places left out (HALF_CHARACTER: " in found.detail


def test_the_doubles_answer_is_the_references() -> None:
    assert answer_to(HI).ids == (ONE, TWO, END)
    assert [token.text for token in listed(ROWS[2], 1)] == [""]
