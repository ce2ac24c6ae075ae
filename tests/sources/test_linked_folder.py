"""Folders of the cache that appear whole or not at all, and leave the user's files alone."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from packager.sources.linked_folder import fingerprint, link_small_files, made_once


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PACKAGER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def fill(folder: Path) -> None:
    (folder / "a").write_text("a")


def test_it_is_made_once_and_has_the_name_it_should() -> None:
    calls: list[Path] = []

    def make(folder: Path) -> None:
        calls.append(folder)
        fill(folder)

    first, second = made_once("kind", "key", "packy", make), made_once("kind", "key", "packy", make)

    assert first == second
    assert (first.name, (first / "a").read_text(), len(calls)) == ("packy", "a", 1)


@pytest.mark.parametrize("other", [("kind", "other", "packy"), ("more", "key", "packy"), ("kind", "key", "other")])
def test_another_key_kind_or_name_is_another_folder(other: tuple[str, str, str]) -> None:
    first = made_once("kind", "key", "packy", fill)
    assert made_once(*other, fill) != first
    assert (first / "a").is_file()


def test_what_fails_leaves_nothing_and_is_made_the_next_time(own_cache: Path) -> None:
    def fail(folder: Path) -> None:
        fill(folder)
        raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        made_once("kind", "key", "packy", fail)

    assert list(own_cache.rglob("a")) == []
    assert (made_once("kind", "key", "packy", fill) / "a").is_file()


def test_what_a_killed_process_left_is_thrown_away(own_cache: Path) -> None:
    whole = made_once("kind", "key", "packy", fill)
    left = whole.parent.with_name(whole.parent.name + ".new")
    whole.parent.rename(left)
    (left / "packy" / "half").write_text("half")

    again = made_once("kind", "key", "packy", fill)

    assert again == whole
    assert [path.name for path in again.iterdir()] == ["a"]
    assert not left.exists()


def test_two_at_once_make_it_once() -> None:
    calls: list[int] = []
    gate = threading.Barrier(2)

    def make(folder: Path) -> None:
        calls.append(1)
        fill(folder)

    def run() -> None:
        gate.wait()
        made_once("kind", "key", "packy", make)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert calls == [1]


def test_only_small_files_are_linked_and_nothing_is_copied(tmp_path: Path) -> None:
    source, into = tmp_path / "source", tmp_path / "into"
    (source / "additional_chat_templates").mkdir(parents=True)
    (source / "global_step3").mkdir()
    into.mkdir()
    for name in ("config.json", "LICENSE", "tokenizer.model", "model.safetensors", "a.bin", "x.index.json", ".hidden"):
        (source / name).write_text(name)
    os.mkfifo(source / "pipe")

    link_small_files(source, into)

    assert {path.name for path in into.iterdir()} == {
        "config.json", "LICENSE", "tokenizer.model", "additional_chat_templates"
    }  # fmt: skip
    assert all(path.is_symlink() and path.resolve() == (source / path.name) for path in into.iterdir())


def test_a_fingerprint_changes_with_a_files_size_and_time_and_with_what_is_added(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("a")
    first = fingerprint([file])
    assert fingerprint([file]) == first
    assert fingerprint([file], "more") != first
    os.utime(file, ns=(1, 1))
    assert fingerprint([file]) != first


def test_a_checkpoint_keeps_the_configurations_of_its_run(tmp_path: Path) -> None:
    folder, into = tmp_path / "run" / "checkpoint-5", tmp_path / "into"
    folder.mkdir(parents=True)
    into.mkdir()
    for path in (folder / "config.json", folder / "own.yaml"):
        path.write_text("mine")
    for name in ("training_args.yaml", "own.yaml", "xtuner_config.py", "other.py", "config.json", "trainer_state.json"):
        (folder.parent / name).write_text("the run's")

    link_small_files(folder, into)

    assert {path.name: path.read_text() for path in into.iterdir()} == {
        "config.json": "mine", "own.yaml": "mine", "training_args.yaml": "the run's", "xtuner_config.py": "the run's"
    }  # fmt: skip
