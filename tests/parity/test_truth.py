from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from packager.artifacts import Conversation
from packager.durable import FileDigest
from packager.errors import Unsupported
from packager.events import Advanced, Event, silent
from packager.parity.reference_cache import ReferenceCache
from packager.parity.steps import Steps
from packager.parity.truth import Truth, ask_reference
from tests.parity.engine_doubles import BYE, HI, ODD, REFUSED, ROWS, Teacher, answer_to, talk, truth_of

INPUTS = (FileDigest(name="model.safetensors", size_bytes=1, sha256="0" * 64),)


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACKAGER_CACHE", str(tmp_path))


def ask(teacher: Teacher, *conversations: Conversation) -> Truth:
    return ask_reference(teacher, conversations, INPUTS, ReferenceCache(), Steps(9, silent))


def test_every_probe_is_rendered_and_only_the_core_ones_are_answered() -> None:
    truth = ask(Teacher(), HI, ODD, BYE)
    assert truth.conversations == (HI, ODD, BYE)
    assert truth.prompts == (
        "<bos><user>Hi<assistant>",
        "<bos><user>Hi<user>Bye<assistant>",
        "<bos><user>Bye<assistant>",
    )
    assert truth.ids == ((0, 1, 4, 2), (0, 1, 4, 1, 5, 2), (0, 1, 5, 2))
    assert [(answered.conversation, answered.answer.prompt) for answered in truth.answered] == [
        (HI, (0, 1, 4, 2)),
        (BYE, (0, 1, 5, 2)),
    ]


def test_answers_are_32_tokens_long_and_the_weights_go_after_the_last_question() -> None:
    teacher = Teacher()
    truth = ask(teacher, HI, BYE)
    assert truth.reference is teacher
    assert [line for line in teacher.asked if line.startswith("answer")] == ["answer hi 32", "answer bye 32"]
    asked = [line.split()[0] for line in teacher.asked]
    assert asked.index("close") == asked.index("answer") + 2
    assert {"render", "tokens"} >= set(asked[asked.index("close") + 1 :])


def test_what_was_answered_before_is_not_asked_again() -> None:
    first, second, other = Teacher(), Teacher(), Teacher()
    other.template = "{{ another }}"
    told, again = ask(first, HI, BYE), ask(second, HI, BYE)
    ask(other, HI, BYE)
    assert [line for line in second.asked if line.startswith("answer")] == []
    assert [line for line in other.asked if line.startswith("answer")] == ["answer hi 32", "answer bye 32"]
    for one, two in zip(told.answered, again.answered, strict=True):
        assert (one.answer.prompt, one.answer.ids, one.answer.text) == (two.answer.prompt, two.answer.ids, "onetwo")
        np.testing.assert_array_equal(two.answer.logprobs, ROWS)
        np.testing.assert_array_equal(two.answer.prompt_logprobs, answer_to(HI).prompt_logprobs)


def test_each_core_conversation_is_a_step_a_refused_one_too() -> None:
    events: list[Event] = []
    ask_reference(Teacher(frozenset({"hi"})), (HI, ODD, BYE), INPUTS, ReferenceCache(), Steps(2, events.append))
    assert [(event.done, event.total, event.detail) for event in events if isinstance(event, Advanced)] == [
        (1, 2, "transformers: hi"),
        (2, 2, "transformers: bye"),
    ]


@pytest.mark.parametrize("refused", [pytest.param(HI, id="a CORE one"), pytest.param(ODD, id="an EXT one")])
def test_a_refusal_is_kept_as_the_references_word(refused: Conversation) -> None:
    truth = ask(Teacher(frozenset({refused.id})), HI, ODD, BYE)
    at = truth.conversations.index(refused)
    assert truth.prompts[at] == truth.ids[at] == REFUSED
    assert REFUSED not in truth.prompts[:at] + truth.prompts[at + 1 :]
    assert refused not in [answered.conversation for answered in truth.answered]


@pytest.mark.parametrize(
    "conversations",
    [
        pytest.param((HI, BYE), id="all are refused"),
        pytest.param((HI, ODD), id="only an odd one is taken"),
        pytest.param((ODD,), id="there is no CORE one"),
    ],
)
def test_without_one_answer_there_is_nothing_to_compare(conversations: tuple[Conversation, ...]) -> None:
    with pytest.raises(Unsupported, match="refuses every probe conversation") as caught:
        ask(Teacher(frozenset({"hi", "bye"})), *conversations)
    assert "packager template" in caught.value.hint


@pytest.mark.parametrize(
    ("refuses", "tokens"),
    [
        pytest.param(frozenset(), 6 + 32, id="the odd one is the longest"),
        pytest.param(frozenset({"odd"}), 5 + 32, id="a refused one has no length"),
        pytest.param(frozenset({"hi", "odd", "long"}), 32, id="all are refused"),
    ],
)
def test_the_longest_prompt_leaves_room_for_an_answer(refuses: frozenset[str], tokens: int) -> None:
    assert truth_of(HI, ODD, talk("long", "HiBye"), refuses=refuses).longest_tokens == tokens
