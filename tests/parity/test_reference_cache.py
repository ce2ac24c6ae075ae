"""The reference's answers on the disk: whole or absent, believed only when their bytes are those that were written."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from packager.engines.transformers import Answer
from packager.errors import NoSpace
from packager.parity.reference_cache import ReferenceCache, ReferenceKey

KEY = ReferenceKey(
    inputs=("0" * 64,), template="{{ messages }}", conversations="1" * 64, answer_tokens=32, version="5.23.0"
)


def answer(seed: int = 0, *, vocabulary: int = 50) -> Answer:
    rows = np.random.default_rng(seed).standard_normal((7, vocabulary)).astype(np.float32)
    return Answer(prompt=(1, 2, 3, 4, 5), ids=(6, 7, 8), text="é 你好", logprobs=rows[4:], prompt_logprobs=rows[:4])


class Asked:
    """Answers, and how often they were asked for."""

    def __init__(self, *answers: Answer | None) -> None:
        self.answers = answers
        self.times = 0

    def __call__(self) -> tuple[Answer | None, ...]:
        self.times += 1
        return self.answers


def assert_same(found: Answer | None, expected: Answer | None) -> None:
    assert found is not None
    assert expected is not None
    assert (found.prompt, found.ids, found.text) == (expected.prompt, expected.ids, expected.text)
    np.testing.assert_array_equal(found.logprobs, expected.logprobs)
    np.testing.assert_array_equal(found.prompt_logprobs, expected.prompt_logprobs)


def test_answers_come_back_as_they_were_and_are_asked_for_once(tmp_path: Path) -> None:
    asked = Asked(answer(), None, answer(1))
    cache = ReferenceCache(tmp_path / "new")
    for found in (
        cache.answers(KEY, asked),
        cache.answers(KEY, asked),
        ReferenceCache(tmp_path / "new").answers(KEY, asked),
    ):
        assert found[1] is None
        assert_same(found[0], asked.answers[0])
        assert_same(found[2], asked.answers[2])
    assert asked.times == 1


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(replace(KEY, inputs=("2" * 64,)), id="other weights"),
        pytest.param(replace(KEY, template="{{ x }}"), id="another template"),
        pytest.param(replace(KEY, conversations="3" * 64), id="other conversations"),
        pytest.param(replace(KEY, answer_tokens=31), id="shorter answers"),
        pytest.param(replace(KEY, version="5.24.0"), id="another version"),
    ],
)
def test_whatever_an_answer_depends_on_is_part_of_its_key(tmp_path: Path, other: ReferenceKey) -> None:
    cache, asked = ReferenceCache(tmp_path), Asked(answer())
    cache.answers(KEY, asked)
    cache.answers(other, asked)
    assert asked.times == 2


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda folder: flip(folder / "0.npy"), id="a flipped bit"),
        pytest.param(lambda folder: (folder / "0.npy").write_bytes(b""), id="an empty array"),
        pytest.param(lambda folder: (folder / "0.npy").unlink(), id="no array"),
        pytest.param(lambda folder: (folder / "answers.json").write_text("{"), id="no JSON"),
        pytest.param(lambda folder: (folder / "answers.json").write_text("[]"), id="another JSON"),
        pytest.param(lambda folder: (folder / "answers.json").unlink(), id="no answers"),
    ],
)
def test_what_is_damaged_is_asked_for_again(tmp_path: Path, damage: object) -> None:
    cache, asked = ReferenceCache(tmp_path), Asked(answer())
    cache.answers(KEY, asked)
    (folder,) = (entry for entry in tmp_path.iterdir() if entry.is_dir())
    assert callable(damage)
    damage(folder)
    (found,) = cache.answers(KEY, asked)
    assert asked.times == 2
    assert_same(found, asked.answers[0])


def test_a_question_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fails() -> tuple[Answer | None, ...]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ReferenceCache(tmp_path).answers(KEY, fails)
    assert [entry for entry in tmp_path.rglob("*") if entry.is_dir()] == []


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    size = 7 * 1000 * 4
    cache = ReferenceCache(tmp_path, limit_bytes=3 * size)
    keys = [replace(KEY, answer_tokens=number) for number in range(3)]
    for number, key in enumerate(keys[:2]):
        cache.answers(key, Asked(answer(vocabulary=1000)))
        for entry in tmp_path.iterdir():
            os.utime(entry, (100 + number, 100 + number)) if entry.stat().st_mtime > 1000 else None
    cache.answers(keys[0], Asked())  # used again: now the second is the oldest
    cache.answers(keys[2], Asked(answer(vocabulary=1000)))
    again = [Asked(answer(vocabulary=1000)) for _ in keys]
    for key, asked in zip((keys[0], keys[2], keys[1]), again, strict=True):
        cache.answers(key, asked)
    assert [asked.times for asked in again] == [0, 0, 1]


def test_what_a_killed_run_left_is_cleared_after_a_day(tmp_path: Path) -> None:
    old, new = tmp_path / ".new-old", tmp_path / ".new-now"
    for folder in (old, new):
        folder.mkdir()
        (folder / "0.npy").write_bytes(b"x")
    os.utime(old, (1, 1))
    ReferenceCache(tmp_path).answers(KEY, Asked(answer()))
    assert not old.exists()
    assert new.exists()


def test_a_full_disk_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, array: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(NoSpace):
        ReferenceCache(tmp_path).answers(KEY, Asked(answer()))
    assert [entry for entry in tmp_path.iterdir() if entry.is_dir()] == []


def test_the_cache_is_below_the_one_of_everything_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACKAGER_CACHE", str(tmp_path / "mine"))
    ReferenceCache().answers(KEY, Asked(answer()))
    assert len([entry for entry in (tmp_path / "mine" / "reference").iterdir() if entry.is_dir()]) == 1
