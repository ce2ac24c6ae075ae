"""Which save of a trainer's output folder is taken, and that what a trainer keeps for itself is never opened."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from packager.artifacts import Adapter
from packager.errors import InputInvalid
from packager.formats.adapter import read_adapter
from packager.formats.checkpoint import read_checkpoint
from packager.formats.model_files import model_files
from packager.sources.trainer_output import choose_save
from tests.formats.tiny_folders import write_adapter, write_base

# As `Trainer._save_checkpoint` of transformers and its DeepSpeed and FSDP integrations name them.
LEFTOVERS = (
    "optimizer.pt", "optimizer.bin", "scheduler.pt", "rng_state.pth", "rng_state_0.pth", "training_args.bin", "scaler.pt",
    "pytorch_model_fsdp.bin", "checkpoint.pt",
)  # fmt: skip


def write_run(folder: Path, *steps: int, adapter: bool = True, best: str | None = None) -> Path:
    """The output folder of a training that was stopped: checkpoints, and no final model."""
    folder.mkdir(exist_ok=True)
    for step in steps:
        save = folder / f"checkpoint-{step}"
        _ = write_adapter(save) if adapter else write_base(save)
        (save / "trainer_state.json").write_text(json.dumps({"best_model_checkpoint": best, "global_step": step}))
    return folder


def plant_leftovers(folder: Path) -> None:
    """Pipes that nobody writes to, so that whoever opens one waits until the test's time is over."""
    for name in LEFTOVERS:
        os.mkfifo(folder / name)
    (folder / "global_step12").mkdir()
    os.mkfifo(folder / "global_step12" / "mp_rank_00_model_states.pt")


@pytest.mark.parametrize("adapter", [pytest.param(True, id="adapter"), pytest.param(False, id="full fine-tune")])
@pytest.mark.parametrize(
    ("steps", "best", "wanted", "taken", "note"),
    [
        pytest.param((9, 10, 100), None, None, 100, "the newest one", id="by number, not by name"),
        pytest.param(
            (4, 8), "saves/x/checkpoint-4", None, 4, "the best one, says its trainer_state.json", id="the best"
        ),
        pytest.param((4, 8), r"C:\runs\checkpoint-4", None, 4, "the best one", id="the best, trained on Windows"),
        pytest.param((4, 8), "saves/x/checkpoint-2", None, 8, "the newest one", id="the best was removed"),
        pytest.param((4, 8), "checkpoint-4", "newest", 8, "the newest one", id="the newest is wanted"),
        pytest.param((4, 8), "checkpoint-4", "best", 4, "the best one", id="the best is wanted"),
        pytest.param((4, 8), "checkpoint-4", "8", 8, "", id="a number"),
    ],
)
def test_a_checkpoint_is_chosen(
    tmp_path: Path, adapter: bool, steps: tuple[int, ...], best: str | None, wanted: str | None, taken: int, note: str
) -> None:
    run = write_run(tmp_path / "run", *steps, adapter=adapter, best=best)

    save = choose_save(run, wanted, adapter=adapter)

    assert save.folder == run / f"checkpoint-{taken}"
    assert note in save.note
    assert bool(save.note) == bool(note)


def test_the_final_one_comes_before_checkpoints_and_that_is_told(tmp_path: Path) -> None:
    run = write_adapter(write_run(tmp_path / "run", 4, 8, best="checkpoint-4"))

    save = choose_save(run, None, adapter=True)

    assert save.folder == run
    assert "final" in save.note
    assert "checkpoint 4, 8" in save.note
    assert choose_save(run, "8", adapter=True).folder == run / "checkpoint-8"


def test_a_folder_without_checkpoints_is_itself(tmp_path: Path) -> None:
    assert choose_save(write_adapter(tmp_path / "lora"), None, adapter=True).folder == tmp_path / "lora"
    assert choose_save(write_adapter(tmp_path / "lora"), None, adapter=True).note == ""


def test_a_checkpoint_that_was_not_saved_to_its_end_is_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 4, 8)
    (run / "checkpoint-8" / "adapter_model.safetensors").unlink()

    save = choose_save(run, None, adapter=True)

    assert save.folder == run / "checkpoint-4"
    assert "complete, not 8" in save.note


@pytest.mark.parametrize(
    ("steps", "wanted", "message", "hint"),
    [
        pytest.param((4, 8), "6", "has no checkpoint-6", "There are: 4, 8.", id="no such number"),
        pytest.param((), "6", "has no checkpoint-N folder", "Leave --checkpoint out.", id="no checkpoints"),
        pytest.param(
            (4, 8), "best", "which checkpoint is the best", "newest, or a number: 4, 8", id="none is the best"
        ),
    ],
)
def test_what_is_not_there_is_refused(
    tmp_path: Path, steps: tuple[int, ...], wanted: str, message: str, hint: str
) -> None:
    run = write_run(tmp_path / "run", *steps)

    with pytest.raises(InputInvalid, match=message) as refused:
        choose_save(run, wanted, adapter=True)

    assert hint in refused.value.hint


def test_checkpoints_of_the_other_kind_go_to_the_reader_that_tells_what_they_are(tmp_path: Path) -> None:
    lora, full = write_run(tmp_path / "lora", 4, 8), write_run(tmp_path / "full", 4, 8, adapter=False)
    base = read_checkpoint(choose_save(full, None, adapter=False).folder)

    with pytest.raises(InputInvalid, match="checkpoint-8: an adapter") as as_base:
        read_checkpoint(choose_save(lora, None, adapter=False).folder)
    with pytest.raises(InputInvalid, match=r"no adapter_config\.json") as as_adapter:
        read_adapter(choose_save(full, None, adapter=True).folder, base)

    assert "packager build someone/base" in as_base.value.hint
    assert "This is a base" in as_adapter.value.hint


def test_no_complete_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-4").mkdir()
    with pytest.raises(InputInvalid, match=r"no adapter_config\.json with weights"):
        choose_save(tmp_path, "newest", adapter=True)


def test_what_a_trainer_keeps_for_itself_is_never_opened(tmp_path: Path) -> None:
    base_run, lora_run = write_run(tmp_path / "full", 4, adapter=False), write_run(tmp_path / "lora", 4)
    for folder in (base_run, base_run / "checkpoint-4", lora_run, lora_run / "checkpoint-4"):
        plant_leftovers(folder)

    base = read_checkpoint(choose_save(base_run, None, adapter=False).folder)
    adapter: Adapter = read_adapter(choose_save(lora_run, None, adapter=True).folder, base)

    read = {path.name for path in model_files(base, adapter)}
    assert read.isdisjoint(LEFTOVERS)
    assert {"model.safetensors", "adapter_model.safetensors"} <= read
