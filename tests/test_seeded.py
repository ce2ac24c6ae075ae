"""Choices that depend on a text alone: the same in every process."""

from __future__ import annotations

import subprocess
import sys

from packager.seeded import Choices


def test_the_same_text_gives_the_same_choices_in_another_process() -> None:
    code = "from packager.seeded import Choices; c = Choices('x'); print([c.below(100) for _ in range(9)])"
    runs = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    choices = Choices("x")
    assert runs == {f"{[choices.below(100) for _ in range(9)]}\n"}


def test_another_text_gives_others() -> None:
    one, other = Choices("a"), Choices("b")
    assert [one.below(1000) for _ in range(5)] != [other.below(1000) for _ in range(5)]


def test_every_item_has_its_turn() -> None:
    choices = Choices("items")
    assert {choices.one("abc") for _ in range(60)} == {"a", "b", "c"}
