"""Weights that are pickles, as safetensors: converted once, in a process that can do nothing else, and kept in the cache.

Only the names of weights are looked for (`pytorch_model*.bin`, `adapter_model.bin`, and what the user names); what a trainer
keeps to go on training is a pickle, too, and is never opened.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from packager.durable import disk_error, sha256_file, sync_file
from packager.errors import InputInvalid, UnsafeInput
from packager.events import Emit, Noted
from packager.formats.checkpoint import folder_name, list_names
from packager.formats.json_file import JsonObject, parse_object, read_object, read_text
from packager.formats.safetensors import read_header
from packager.sources import torch_archive
from packager.sources.linked_folder import fingerprint, link_small_files, made_once, small_files
from packager.worker_process import WorkerFailed, WorkerProcess

STAGE = "sources"
_KIND = "converted"
_FORM = "1"  # of what is kept in the cache
_BASE = re.compile(r"pytorch_model(?P<part>-\d{5}-of-\d{5})?\.bin", re.ASCII)
_INDEX = "pytorch_model.bin.index.json"
_ADAPTER = "adapter_model.bin"
_OUTPUT_LAYERS = ("lm_head.weight", "embed_out.weight", "output.weight")
_NO_WEIGHTS = ("value_head", "optimizer", ".")  # saved beside the model by PPO, and by trainers to go on
_ANSWER_BYTES = 1 << 20
_SHOWN = 6


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """What the process that converts has said of a file."""

    left_out: tuple[str, ...]
    stand_ins: tuple[str, ...]


def pickles_of(folder: Path, *, adapter: bool) -> tuple[str, ...]:
    """Give the files of a folder with pickled weights; none where there are safetensors, which then count."""
    names = list_names(folder)
    if any(_holds_weights(name) and name.startswith("adapter_") == adapter for name in names):
        return ()
    return tuple(name for name in names if (name == _ADAPTER if adapter else _BASE.fullmatch(name)))


def _holds_weights(name: str) -> bool:
    return name.endswith(".safetensors") and not name.startswith(_NO_WEIGHTS)


def converted_folder(folder: Path, *, adapter: bool, emit: Emit) -> Path:
    """Give a folder like this one whose weights are safetensors instead of pickles.

    Raises:
        InputInvalid: A pickle is damaged, or holds something else than weights; an index and the files disagree.
        UnsafeInput: A pickle does what no file with weights does.
        NoSpace: The disk of the cache is full.
    """
    names = pickles_of(folder, adapter=adapter)
    tied = () if adapter or not _may_tie(folder) else _OUTPUT_LAYERS
    digests = [(name, sha256_file(folder / name, emit=emit, stage=STAGE)) for name in names]
    index = [folder / _INDEX] if (folder / _INDEX).is_file() else []
    beside = fingerprint([*small_files(folder), *index])  # they are linked: where they lie counts, too

    def make(staging: Path) -> None:
        link_small_files(folder, staging)
        left_out: list[str] = []
        for name in names:
            emit(Noted(stage=STAGE, text=f"{folder / name}: is converted to safetensors, once"))
            left_out += convert_pickle(folder / name, staging / _safe_name(name), tied=tied, emit=emit)
        if index and not adapter:
            (staging / "model.safetensors.index.json").write_text(_index(folder, left_out), encoding="utf-8")

    return made_once(_KIND, _key([*digests, *tied, beside]), folder_name(folder), make)


def convert_pickle(
    source: Path,
    output: Path,
    *,
    strip: tuple[str, ...] = (),
    peft: bool = False,
    tied: tuple[str, ...] = (),
    emit: Emit,
) -> tuple[str, ...]:
    """Write the tensors of one file of torch.save as safetensors.

    Args:
        source: The pickle.
        output: The file to write; it is complete when this returns.
        strip: Taken from the front of the tensors' names, one after the other.
        peft: Whether the adapter's name, `default`, is taken out of them, as peft does when it saves.
        tied: Names that are left out where another tensor has the same bytes.
        emit: Told what the pickle named besides tensors.

    Returns:
        The names that were left out.

    Raises:
        InputInvalid: It is damaged, or holds something else than weights.
        UnsafeInput: It does what no file with weights does.
        NoSpace: The disk is full.
    """
    try:
        seconds = 60 + source.stat().st_size / (20 << 20)
    except OSError as error:
        raise disk_error(error, source) from error
    request = {"source": str(source.absolute()), "output": str(output), "strip": strip, "peft": peft, "tied": tied}
    try:
        with WorkerProcess((sys.executable, "-P", "-m", torch_archive.__name__)) as worker:
            line = worker.ask(json.dumps(request).encode(), timeout_s=seconds, limit_bytes=_ANSWER_BYTES)
    except WorkerFailed as error:
        raise UnsafeInput(f"{source}: reading this pickle {error}", hint=_WAY_OUT) from None
    answer = _understood(source, output, JsonObject(path=source, values=parse_object(line.decode(), path=source)))
    sync_file(output)
    read_header(output)
    if answer.stand_ins:
        more = ", ..." if len(answer.stand_ins) > _SHOWN else ""
        named = ", ".join(answer.stand_ins[:_SHOWN])
        emit(Noted(stage=STAGE, text=f"{source.name}: names {named}{more}; none of it was imported"))
    return answer.left_out


_WAY_OUT = "Do not open this file. Ask its author for safetensors."


def _understood(source: Path, output: Path, answer: JsonObject) -> _Answer:
    number = answer.integer("errno")
    if number is not None:
        raise disk_error(OSError(number, os.strerror(number), str(output)), output)
    if (unsafe := answer.text("unsafe")) is not None:
        raise UnsafeInput(f"{source}: {unsafe}", hint=_WAY_OUT)
    if (invalid := answer.text("invalid")) is not None:
        raise InputInvalid(
            f"{source}: {invalid}", hint="Save the weights where they were made, as safetensors: save_pretrained(DIR)"
        )
    return _Answer(
        left_out=tuple(str(name) for name in answer.items("left_out")),
        stand_ins=tuple(str(name) for name in answer.items("stand_ins")),
    )


def _safe_name(name: str) -> str:
    match = _BASE.fullmatch(name)
    return f"model{match['part'] or ''}.safetensors" if match else name.replace(".bin", ".safetensors")


def _index(folder: Path, left_out: list[str]) -> str:
    """Give the index of the pickles as one of the files that were made of them."""
    path = folder / _INDEX
    weight_map = JsonObject(path=path, values=parse_object(read_text(path), path=path, unique_keys=True)).child(
        "weight_map"
    )
    places = {name: weight_map.text(name) or "" for name in weight_map.values} if weight_map is not None else {}
    changed = {name: _safe_name(place) for name, place in places.items() if name not in left_out}
    return json.dumps({"metadata": {}, "weight_map": changed}, indent=2, sort_keys=True)


def _may_tie(folder: Path) -> bool:
    """Say whether config.json allows that the output layer is the embedding."""
    if not (folder / "config.json").is_file():
        return False
    config = read_object(folder / "config.json")
    text = config.child("text_config") or config
    return text.flag("tie_word_embeddings") is not False and config.flag("tie_word_embeddings") is not False


def _key(facts: list[object]) -> str:
    return hashlib.sha256(json.dumps([_FORM, *facts]).encode()).hexdigest()
