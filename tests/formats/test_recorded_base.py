from __future__ import annotations

from pathlib import Path

import pytest

from packager.errors import InputInvalid
from packager.formats.adapter import read_adapter
from packager.formats.checkpoint import read_checkpoint
from packager.formats.recorded_base import full_precision_name
from tests.formats.tiny_folders import write_adapter, write_base

COMMITS = ("a" * 40, "b" * 40)


def snapshot(cache: Path, name: str) -> Path:
    """A folder as a hub's cache has it."""
    return write_base(cache / f"models--{name.replace('/', '--')}" / "snapshots" / COMMITS[0])


@pytest.mark.parametrize(
    ("recorded", "folder"),
    [
        ("Qwen/Qwen2.5-7B", "Qwen2.5-7B-Instruct"),
        ("Qwen/Qwen2.5-7B-Instruct", "Qwen2.5-0.5B-Instruct"),
        ("unsloth/Qwen2.5-7B-bnb-4bit", "Qwen2.5-7B-Instruct"),
    ],
    ids=["base-and-instruct", "sizes", "quantized-copy-of-another"],
)
def test_a_base_of_the_same_family_and_another_name_is_refused(recorded: str, folder: str, tmp_path: Path) -> None:
    base = read_checkpoint(write_base(tmp_path / folder))
    adapter = write_adapter(tmp_path / "lora", base_model_name_or_path=recorded)
    with pytest.raises(InputInvalid, match=f"was trained on {recorded}, not on {folder}$") as caught:
        read_adapter(adapter, base)
    assert recorded in caught.value.hint


@pytest.mark.parametrize(
    ("recorded", "folder"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", "qwen2.5-7b-instruct"),
        ("unsloth/Qwen2.5-7B-Instruct-bnb-4bit", "Qwen2.5-7B-Instruct"),
        ("unsloth/Qwen2.5-7B-Instruct-unsloth-bnb-4bit", "Qwen2.5-7B-Instruct"),
        ("Qwen/Qwen2.5-7B-Instruct", "my-base"),
        ("/home/me/models/Qwen2.5-7B", "Qwen2.5-7B-Instruct"),
        (None, "Qwen2.5-7B"),
    ],
    ids=["case", "bnb", "unsloth-bnb", "any-folder", "a-path-of-the-trainer", "nothing-recorded"],
)
def test_a_name_that_proves_nothing_is_accepted(recorded: str | None, folder: str, tmp_path: Path) -> None:
    base = read_checkpoint(write_base(tmp_path / folder))
    adapter = write_adapter(tmp_path / "lora", base_model_name_or_path=recorded)
    assert read_adapter(adapter, base).base_name == recorded


def test_the_hubs_own_name_and_revision_count(tmp_path: Path) -> None:
    base = read_checkpoint(snapshot(tmp_path, "org/one"))
    with pytest.raises(InputInvalid, match="was trained on org/two, not on one"):
        read_adapter(write_adapter(tmp_path / "name", base_model_name_or_path="org/two"), base)
    copied = write_adapter(tmp_path / "copy", base_model_name_or_path="unsloth/meta-one")
    assert read_adapter(copied, base).updates, "one of another owner may be the same model"
    for at, revision in enumerate(COMMITS):
        adapter = write_adapter(tmp_path / f"revision-{at}", base_model_name_or_path="org/one", revision=revision)
        if revision == base.folder.name:
            assert read_adapter(adapter, base).updates
        else:
            with pytest.raises(InputInvalid, match=f"revision {COMMITS[1]} of org/one, .*{COMMITS[0]} is {COMMITS[0]}"):
                read_adapter(adapter, base)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("unsloth/Qwen3-8B-bnb-4bit", "unsloth/Qwen3-8B"),
        ("unsloth/Qwen3-8B-unsloth-bnb-4bit", "unsloth/Qwen3-8B"),
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", "Qwen/Qwen2.5-7B-Instruct"),
        ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", "Qwen/Qwen2.5-7B-Instruct"),
        ("unsloth/Qwen3-8B", "unsloth/Qwen3-8B"),
    ],
    ids=str,
)
def test_the_name_of_the_16_bit_model(name: str, expected: str) -> None:
    assert full_precision_name(name) == expected
