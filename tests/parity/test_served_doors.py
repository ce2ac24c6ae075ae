"""One conversation through every endpoint, with a served double: what differs, what fails and what is missing."""

from __future__ import annotations

import dataclasses

import pytest

from packager.artifacts import Check, Outcome
from packager.engines.engine import NotSupported, TokenLogprob
from packager.engines.ollama_answers import ServedAnswer, SpokenToken
from packager.engines.ollama_doors import Door
from packager.errors import OllamaFailed
from packager.parity.served_doors import ask_doors, openai_check, streaming_check
from tests.parity.engine_doubles import BYE, HI, Served


def spoken(**changes: object) -> ServedAnswer:
    """What the double says to HI through every endpoint, with changes."""
    found = Served().through(Door.NATIVE, HI, max_tokens=32, top_logprobs=20)
    assert isinstance(found, ServedAnswer)
    return dataclasses.replace(found, **changes)


def token(text: str, logprob: float) -> SpokenToken:
    return SpokenToken(text=text, top=(TokenLogprob(text=text, logprob=logprob),))


def checks(served: Served) -> tuple[Check, Check]:
    asked = [ask_doors(served, conversation, max_tokens=32) for conversation in (HI, BYE)]
    labels = {"subject": "q8_0", "engine": "ollama"}
    return streaming_check(asked, **labels), openai_check(asked, **labels)


def test_equal_endpoints() -> None:
    streaming, openai = checks(Served())
    assert (streaming.outcome, streaming.detail) == (Outcome.PASSED, "2 of 2 as /api/chat, streamed")
    assert (openai.outcome, openai.detail) == (Outcome.PASSED, "4 of 4 as /api/chat, streamed")
    assert [(measure.value, measure.limit) for check in (streaming, openai) for measure in check.measures] == [
        (2, 2),
        (4, 4),
    ]


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        pytest.param({"content": "oneone"}, "text 'two' there, 'one' here", id="text"),
        pytest.param({"thinking": "hm"}, "thinking '' there, 'hm' here", id="thinking"),
        pytest.param({"end": "length"}, "end 'stop' there, 'length' here", id="end"),
        pytest.param({"prompt_tokens": 5}, "prompt tokens 4 there, 5 here", id="prompt count"),
        pytest.param({"answer_tokens": None}, "answer tokens 3 there, None here", id="no answer count"),
        pytest.param(
            {"tokens": (token("one", -0.2),)}, "probabilities of 2 tokens there, of 1 others here", id="a token less"
        ),
        pytest.param(
            {"tokens": (token("one", -0.25), token("two", -0.8))}, "other probabilities at token 1", id="probabilities"
        ),
    ],
)
@pytest.mark.parametrize("door", [Door.NATIVE_WHOLE, Door.OPENAI, Door.OPENAI_WHOLE], ids=lambda door: door.name)
def test_one_difference_fails_the_line_of_its_endpoint(door: Door, changes: dict[str, object], difference: str) -> None:
    served = Served(doors={door: spoken(**changes)})
    judged = checks(served)
    mine, other = judged if door is Door.NATIVE_WHOLE else judged[::-1]
    assert (mine.outcome, other.outcome) == (Outcome.FAILED, Outcome.PASSED)
    assert mine.detail.endswith(f"as /api/chat, streamed; hi: {door}: {difference}")


def test_an_endpoint_without_probabilities_is_compared_in_the_rest() -> None:
    assert [check.outcome for check in checks(Served(doors={Door.OPENAI: spoken(tokens=())}))] == [Outcome.PASSED] * 2


def test_a_reply_that_cannot_be_read_fails_the_openai_line_alone() -> None:
    failed = OllamaFailed("Ollama ended the stream without [DONE]")
    streaming, openai = checks(Served(doors={Door.OPENAI: failed}))
    assert (streaming.outcome, openai.outcome) == (Outcome.PASSED, Outcome.FAILED)
    assert openai.detail == (
        "2 of 4 as /api/chat, streamed; hi: /v1/chat/completions, streamed: Ollama ended the stream without [DONE]"
    )


def test_a_native_endpoint_that_dies_ends_the_column() -> None:
    with pytest.raises(OllamaFailed, match="died"):
        checks(Served(doors={Door.NATIVE_WHOLE: OllamaFailed("died")}))


def test_a_server_without_the_openai_endpoint_is_not_checked() -> None:
    missing = NotSupported(code="NO_OPENAI", detail="Ollama 0.1.0 has no such endpoint")
    streaming, openai = checks(Served(doors={Door.OPENAI: missing, Door.OPENAI_WHOLE: missing}))
    assert (streaming.outcome, openai.outcome) == (Outcome.PASSED, Outcome.NOT_CHECKED)
    assert openai.detail == "NO_OPENAI: Ollama 0.1.0 has no such endpoint"


def test_nothing_asked_is_nothing_checked() -> None:
    assert streaming_check([], subject="q8_0", engine="ollama").outcome is Outcome.NOT_CHECKED


def test_an_answer_from_a_prompt_read_anew_is_asked_for_again() -> None:
    """The first answer rounds otherwise than those from the cache, and turns a tie."""

    class Turning(Served):
        asked = 0

        def through(self, door: Door, *arguments: object, **options: object) -> ServedAnswer | NotSupported:
            self.asked += 1
            return spoken(content="onetwo" if self.asked > 1 else "oneone")

    served = Turning()
    assert [check.outcome for check in checks(served)] == [Outcome.PASSED] * 2
    assert served.asked == 4 + 1 + 4
