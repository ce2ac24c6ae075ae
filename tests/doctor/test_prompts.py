"""What prompts show: default system prompts, and what is said where they cannot be seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from packager.artifacts import Conversation, Message
from packager.doctor.bos import examine_bos
from packager.doctor.case import Patient, Reference
from packager.doctor.finding import Organ
from packager.doctor.prompts import Prompts, Turn, default_system
from packager.doctor.system import examine_system, explained
from packager.doctor.template import examine_template
from packager.engines.engine import NotSupported

HELLO = Conversation(id="user", group="CORE", messages=(Message(role="user", content="Hi"),))
PATIENT = Patient(name="x.gguf")


def prompts(turn: Turn, expected: str | None = None, found: str | None = None) -> Prompts:
    return Prompts(
        turns=(turn,), bos="", expected_system=expected, found_system=found, own_template=None, adds_bos=None,
        ids_missing="",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("plain", "marked", "system"),
    [
        ("<S>Be kind.<U>Hi", "<S>xq7system7qx<U>Hi", "Be kind."),
        ("<S><U>Hi", "<S>xq7system7qx<U>Hi", ""),
        ("<U>Hi", "<S>xq7system7qx<U>Hi", None),
        ("<U>Hi", "<U>Hi", None),
        ("<S>a", "<S>xq7system7qx<S>a", None),
    ],
    ids=["one", "an empty one", "none", "a system that is dropped", "too short for both ends"],
)
def test_the_default_system_prompt(plain: str, marked: str, system: str | None) -> None:
    assert default_system(plain, marked) == system


def test_a_template_that_takes_no_system_has_no_default() -> None:
    assert default_system("<U>Hi", NotSupported(code="TEMPLATE_ERROR", detail="no system")) is None


@pytest.mark.parametrize(
    ("found", "cut"),
    [("<U>Hi<A>", True), ("<S><U>Hi<A>", True), ("<U>Hi <A>", False), ("<U>Ho<A>", False)],
    ids=["the block", "the text alone", "and a blank more", "and another letter"],
)
def test_a_lost_system_prompt_explains_nothing_else(found: str, cut: bool) -> None:
    turn = Turn(conversation=HELLO, expected="<S>Be kind.<U>Hi<A>", found=found)
    assert explained(turn, prompts(turn, "Be kind.")) is cut


@pytest.mark.parametrize("code", ["NO_DEBUG_RENDER", "CANNOT_RUN"])
def test_prompts_that_cannot_be_seen_are_not_checked(code: str, known: Callable[..., Reference], small: Path) -> None:
    turn = Turn(conversation=HELLO, expected="Hi", found=NotSupported(code=code, detail="it does not show it"))
    unseen = replace(prompts(turn), cannot_run="it does not show it" if code == "CANNOT_RUN" else "")
    seen = (
        examine_template(PATIENT, unseen)
        + examine_system(PATIENT, unseen)
        + examine_bos(PATIENT, known(small), replace(unseen, bos="<|im_start|>"))
    )
    assert not seen.findings
    assert not seen.healthy
    assert [missing.organ for missing in seen.not_checked] == [Organ.TEMPLATE, Organ.SYSTEM, Organ.BOS]
    assert all("it does not show it" in missing.why for missing in seen.not_checked)
