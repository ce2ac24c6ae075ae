"""Which save of a trainer's output folder is meant: its final model, or one of its `checkpoint-N` folders.

Only names and `trainer_state.json` are looked at. What a trainer keeps to go on training (optimizer, scheduler, random states,
training_args.bin, DeepSpeed's global_step folders) is never opened, here or later.

Source: transformers 5.23, `Trainer._save_checkpoint` and `TrainerState.best_model_checkpoint`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from packager.errors import InputInvalid
from packager.formats.checkpoint import list_names
from packager.formats.json_file import read_object

BEST, NEWEST = "best", "newest"
STATE = "trainer_state.json"
_CHECKPOINT = re.compile(r"checkpoint-(\d{1,12})", re.ASCII)
_CONFIGS = {True: "adapter_config.json", False: "config.json"}
_WEIGHTS = re.compile(r"(adapter_)?(pytorch_)?model.*\.(safetensors|bin)(\.index\.json)?|.+-of-\d+\.safetensors")


@dataclass(frozen=True, kw_only=True)
class Save:
    """A folder with a model or an adapter in it, and which one that is where there was a choice."""

    folder: Path
    note: str = ""


def choose_save(folder: Path, wanted: str | None, *, adapter: bool) -> Save:
    """Give the save that is meant; a folder that is no trainer's output is given as it is.

    Args:
        folder: What the user named.
        wanted: A step, `best`, `newest`, or None: the final model where there is one, else the best where the trainer
            recorded which one that is, else the newest.
        adapter: Whether an adapter is looked for, and not a whole model.

    Raises:
        InputInvalid: There is no such checkpoint, or none that was saved to its end.
    """
    steps = checkpoint_steps(folder)
    if wanted is None and (not steps or is_save(folder, adapter=adapter)):
        others = ", ".join(str(step) for step in steps)
        return Save(folder=folder, note=f"{folder}: the final one is taken, not checkpoint {others}" if steps else "")
    if not steps:
        raise InputInvalid(f"{folder}: has no checkpoint-N folder", hint="Leave --checkpoint out.")
    complete = [step for step in steps if is_save(_at(folder, step), adapter=adapter)]
    if wanted is None and not complete:
        of_the_other_kind = [step for step in steps if is_save(_at(folder, step), adapter=not adapter)]
        # their reader says what they are instead
        return Save(folder=_at(folder, of_the_other_kind[-1]) if of_the_other_kind else folder)
    if wanted is not None and wanted not in (BEST, NEWEST):
        return Save(folder=_numbered(folder, wanted, steps))
    if not complete:
        raise InputInvalid(
            f"{_at(folder, steps[-1])}: no {_CONFIGS[adapter]} with weights beside it",
            hint="Wait for the trainer to finish saving, or pass the folder it saved to.",
        )
    best = _best(folder, complete)
    if wanted == BEST and best is None:
        raise InputInvalid(
            f"{folder}: no {STATE} says which checkpoint is the best and is there",
            hint=f"Pass --checkpoint newest, or a number: {', '.join(map(str, complete))}.",
        )
    if best is not None and wanted != NEWEST:
        return Save(folder=_at(folder, best), note=f"{_at(folder, best)}: the best one, says its {STATE}")
    left = f" that is complete, not {steps[-1]}" if steps[-1] != complete[-1] else ""
    return Save(folder=_at(folder, complete[-1]), note=f"{_at(folder, complete[-1])}: the newest one{left}")


def is_save(folder: Path, *, adapter: bool) -> bool:
    """Say whether a folder holds the configuration and some weights of an adapter, or of a whole model."""
    names = list_names(folder)
    if _CONFIGS[adapter] not in names or (not adapter and _CONFIGS[True] in names):
        return False
    return any(_WEIGHTS.fullmatch(name) and name.startswith("adapter_") == adapter for name in names)


def checkpoint_steps(folder: Path) -> tuple[int, ...]:
    """Give the steps of the `checkpoint-N` folders, in order."""
    return tuple(sorted(int(match[1]) for name in list_names(folder) if (match := _CHECKPOINT.fullmatch(name))))


def _numbered(folder: Path, wanted: str, steps: tuple[int, ...]) -> Path:
    step = int(wanted)
    if step not in steps:
        raise InputInvalid(
            f"{folder}: has no checkpoint-{step}", hint=f"There are: {', '.join(str(each) for each in steps)}."
        )
    return _at(folder, step)


def _best(folder: Path, complete: list[int]) -> int | None:
    """Give the step that the newest state calls the best; the path in it may be of another machine, so its name counts."""
    for place in (*(_at(folder, step) for step in reversed(complete)), folder):
        if (place / STATE).is_file():
            recorded = read_object(place / STATE).text("best_model_checkpoint") or ""
            name = (PureWindowsPath if "\\" in recorded else PurePosixPath)(recorded).name
            match = _CHECKPOINT.fullmatch(name)
            return int(match[1]) if match and int(match[1]) in complete else None
    return None


def _at(folder: Path, step: int) -> Path:
    return folder / f"checkpoint-{step}"
