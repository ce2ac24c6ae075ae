from __future__ import annotations

import dataclasses
import typing

import pytest

from packager.codec import decode, encode
from packager.events import Advanced, Event, Noted, StageFinished, StageStarted, silent

EVENTS = [
    StageStarted(stage="merge", title="merge in float32"),
    Advanced(stage="merge", done=1, total=2, unit="B", detail="model.norm.weight"),
    Noted(stage="merge", text="something", warning=True),
    StageFinished(stage="merge", seconds=1.5, reused=True),
]


def test_the_examples_are_all_there_are() -> None:
    assert {type(event) for event in EVENTS} == set(typing.get_args(Event))


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_events_are_frozen_values_with_a_json_form(event: Event) -> None:
    assert decode(type(event), encode(event)) == event
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.stage = "other"  # type: ignore[misc]
    assert silent(event) is None


def test_what_is_usual_is_the_default() -> None:
    assert Advanced(stage="s", done=0, total=1, unit="step").detail == ""
    assert Noted(stage="s", text="t").warning is False
    assert StageFinished(stage="s", seconds=0.0).reused is False
