"""What a user types for a base and an adapter, as folders: the one place that knows every form of it.

    BASE      a Hugging Face folder, a trainer's output folder, a hub's id, or a LLaMA-Factory yaml, which names the rest
    ADAPTER   a PEFT folder, a trainer's output folder, a hub's id, or XTuner's iter_N.pth

Nothing is judged here but the choice between several: a path that is none of these goes on as it was typed, and
`read_checkpoint` and `read_adapter` say what is wrong with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from packager.errors import InputInvalid, UnsafeInput, Usage
from packager.events import Emit, Noted, silent
from packager.formats.yaml_file import SUFFIXES
from packager.sources import hub
from packager.sources.llamafactory import LlamaFactoryModel, NamedPlace, is_llamafactory_file, read_llamafactory
from packager.sources.pickled_weights import converted_folder, pickles_of
from packager.sources.shards import usual_layout
from packager.sources.trainer_output import choose_save
from packager.sources.xtuner import adapter_of_xtuner, is_xtuner_file, newest_xtuner_file

STAGE = "sources"


@dataclass(frozen=True, kw_only=True)
class Typed:
    """What stands on the command line.

    Attributes:
        base: BASE.
        adapters: ADAPTER and further ones, in the order in which they are added.
        template: What stands behind `--template`.
        checkpoint: Which checkpoint of a trainer's output folder: a step, `best` or `newest`; None for `choose_save`'s rule.
        allow_pickle: Whether pickled weights may be converted.
    """

    base: Path
    adapters: tuple[Path, ...] = ()
    template: str | None = None
    checkpoint: str | None = None
    allow_pickle: bool = False


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The same as folders; `template` is also what a trainer's yaml says where the user says nothing."""

    base: Path
    adapters: tuple[Path, ...]
    template: str | None


def resolve(typed: Typed, *, emit: Emit = silent) -> Sources:
    """Find the folders of a base and its adapters; what was chosen among several is told to `emit`.

    Raises:
        Usage: A yaml and an adapter both say what is added to the base.
        InputInvalid: Something that a yaml names, or the checkpoint that the user wants, is not there.
        UnsafeInput: The weights are pickles, and the user did not allow that.
        Unsupported: A yaml makes no model that answers in text.
        HubFailed: A hub does not give the model.
    """
    template = typed.template
    base, adapters = typed.base, typed.adapters
    if is_llamafactory_file(base):
        if adapters:
            raise Usage(
                f"{base} says which adapters there are, and {adapters[0]} is one more",
                hint=f"Leave {adapters[0]} out, or pass the base's folder in place of {base}.",
            )
        model = read_llamafactory(base)
        base, adapters = _place(model, model.base), tuple(_place(model, place) for place in model.adapters)
        if template is None and model.names_template:
            template = str(model.file)
        for note in (_summary(model, base, adapters), *model.notes):
            emit(Noted(stage=STAGE, text=note))
    base = _folder(base, typed, adapter=False, last=not adapters, emit=emit)
    found = [
        _folder(each, typed, adapter=True, last=number == len(adapters), emit=emit)
        for number, each in enumerate(adapters, start=1)
    ]
    return Sources(base=base, adapters=tuple(found), template=template)


def _folder(path: Path, typed: Typed, *, adapter: bool, last: bool, emit: Emit) -> Path:
    """Give the folder of one model; `--checkpoint` is about the last one, which is what was trained."""
    if path.suffix in SUFFIXES and not path.is_dir():
        if not path.is_file():
            raise InputInvalid(f"{path}: no such file", hint="Check the path.")
        raise InputInvalid(
            f"{path}: a yaml, expected an adapter",
            hint=f"A LLaMA-Factory yaml takes BASE's place: packager build {path} -o DIR",
        )
    if hub.is_hub_name(str(path)):
        path = hub.fetch(str(path), emit=emit).folder
    if is_xtuner_file(path):
        if not adapter:
            raise InputInvalid(
                f"{path}: a .pth, which XTuner saves an adapter in, expected a base",
                hint=f"Pass the base first: packager build BASE {path} -o DIR --allow-pickle",
            )
        if not typed.allow_pickle:
            raise _pickle(path)
        return adapter_of_xtuner(path, emit=emit)
    if not path.is_dir():
        return path
    save = choose_save(path, typed.checkpoint if last else None, adapter=adapter)
    if save.note:
        emit(Noted(stage=STAGE, text=save.note))
    return _readable(save.folder, typed, adapter=adapter, emit=emit)


def _readable(folder: Path, typed: Typed, *, adapter: bool, emit: Emit) -> Path:
    """Give a folder with safetensors that every engine finds, in place of one with pickles or in another layout."""
    if pickles := pickles_of(folder, adapter=adapter):
        if not typed.allow_pickle:
            raise _pickle(folder / pickles[0])
        folder = converted_folder(folder, adapter=adapter, emit=emit)
    if adapter and (newest := newest_xtuner_file(folder)) is not None:
        raise InputInvalid(
            f"{folder}: no adapter_config.json; XTuner saves files", hint=f"Pass the newest: {newest} --allow-pickle"
        )
    return folder if adapter else usual_layout(folder)


def _pickle(path: Path) -> UnsafeInput:
    return UnsafeInput(
        f"{path}: a pickle, which can run code when it is opened, and there are no safetensors in its place",
        hint="Add --allow-pickle: it is then converted once, in a process that can do nothing else.",
    )


def _place(model: LlamaFactoryModel, place: NamedPlace) -> Path:
    """Give what a yaml names: a path that counts from the current folder, as in LLaMA-Factory, or else a hub's id."""
    if Path(place.text).exists():
        return Path(place.text)
    for folder in model.file.absolute().parents:
        if (folder / place.text).exists():
            raise InputInvalid(
                f"{model.file}: {place.key} is {place.text}, which is not in the current folder but in {folder}",
                hint=f"Paths count from where LLaMA-Factory was run: cd {folder}",
            )
    if place.key == "output_dir" or not hub.is_hub_name(place.text):
        raise InputInvalid(
            f"{model.file}: {place.key} is {place.text}: no such folder",
            hint="Paths count from where LLaMA-Factory was run: go there, or pass BASE and ADAPTER as folders.",
        )
    revision = f"@{model.revision}" if model.revision not in (None, "main") else ""
    return Path(f"{model.hub}{place.text}{revision}")


def _summary(model: LlamaFactoryModel, base: Path, adapters: tuple[Path, ...]) -> str:
    template = "its template" if model.names_template else "the base's template"
    return f"{model.file}: {' + '.join(str(each) for each in (base, *adapters))}, {template}"
