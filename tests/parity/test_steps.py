from __future__ import annotations

from packager.events import Advanced, Event
from packager.parity.steps import Steps


def test_each_conversation_is_one_step_of_a_known_total() -> None:
    events: list[Event] = []
    steps = Steps(2, events.append)
    steps.done("reference: user")
    steps.done("llama.cpp f16: user")
    assert events == [
        Advanced(stage="verify", done=1, total=2, unit="probe", detail="reference: user"),
        Advanced(stage="verify", done=2, total=2, unit="probe", detail="llama.cpp f16: user"),
    ]


def test_a_section_accounts_for_what_was_not_asked() -> None:
    events: list[Event] = []
    steps = Steps(5, events.append)
    with steps.section(4, "model-F16.gguf"):
        steps.done("asked")
    steps.done("next")
    assert [(event.done, event.detail) for event in events if isinstance(event, Advanced)] == [
        (1, "asked"),
        (4, "model-F16.gguf"),
        (5, "next"),
    ]


def test_a_section_that_was_asked_whole_adds_nothing() -> None:
    events: list[Event] = []
    steps = Steps(2, events.append)
    with steps.section(2, "model-F16.gguf"):
        steps.done("one")
        steps.done("two")
    assert len(events) == 2
