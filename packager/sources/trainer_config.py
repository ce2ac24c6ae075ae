"""What the configuration that a trainer left beside its adapter says of the chat template. It is read, never run.

Unlike the chat template in the same folder, which XTuner always and LLaMA-Factory mostly copy from the base, this names what
they trained with. LLaMA-Factory's web UI writes `training_args.yaml` and `llamaboard_config.yaml`; a configuration
of its command line is found where the user has put it into the folder. XTuner's converter writes `xtuner_config.py`.

Source: LLaMA-Factory 0.9.5, `webui/runner.py` and `data/template.py`; XTuner 0.2.0, `tools/model_converters/pth_to_hf.py`.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packager.errors import InputInvalid
from packager.formats.json_file import read_text
from packager.formats.yaml_file import SUFFIXES, YAML_LIMIT_BYTES, read_yaml

XTUNER_CONFIG = "xtuner_config.py"
LLAMAFACTORY_CONFIGS = ("training_args.yaml", "llamaboard_config.yaml")
TITLES = {"llamafactory": "LLaMA-Factory", "xtuner": "XTuner"}
_OF_LLAMAFACTORY = "model_name_or_path"  # beside `template`, tells its YAML from others
_CHECKPOINT = re.compile(r"checkpoint-\d+", re.ASCII)
_PROMPT_TEMPLATE = re.compile(r"(?:[A-Za-z_.]+\.)?PROMPT_TEMPLATE\.(\w+)", re.ASCII)
_HINT = "Pass the template the model was trained with: --template FILE|NAME."

Value = str | bool


@dataclass(frozen=True, kw_only=True)
class TrainerTemplate:
    """The template that a trainer's configuration names.

    Attributes:
        trainer: `llamafactory` or `xtuner`.
        name: The trainer's own name for the template.
        file: Where it says so.
        settings: What it changes in the template, by the trainer's names: `default_system`, `enable_thinking`,
            `preserve_thinking`; sorted.
    """

    trainer: str
    name: str
    file: Path
    settings: tuple[tuple[str, Value], ...] = ()


def read_trainer_config(folder: Path) -> TrainerTemplate | None:
    """Give the template that a trainer's configuration in a folder names, None when there is none.

    For `checkpoint-N` of a training run the run's own folder is looked at, too.

    Raises:
        InputInvalid: A configuration is damaged, or two name different templates.
    """
    folders = [folder, folder.absolute().parent] if _CHECKPOINT.fullmatch(folder.name) else [folder]
    for place in folders:
        found = [one for one in (_llamafactory_of(place), _xtuner_of(place)) if one is not None]
        if len(found) > 1:
            raise _two(found[0], found[1])
        if found:
            return found[0]
    return None


def run_configs(folder: Path) -> tuple[Path, ...]:
    """Give the files of a training run's folder that may be a trainer's configuration, for a `checkpoint-N` in it."""
    run = folder.absolute().parent
    if not _CHECKPOINT.fullmatch(folder.name):
        return ()
    return tuple(
        path
        for path in sorted(run.iterdir())
        if (path.suffix in SUFFIXES or path.name == XTUNER_CONFIG) and path.is_file()
    )


def is_trainer_config(path: Path) -> bool:
    """Say whether a file's name is that of a trainer's configuration, and not of a template."""
    return path.suffix in SUFFIXES or path.suffix == ".py"


def read_trainer_file(path: Path) -> TrainerTemplate:
    """Give the template that one configuration file names.

    Raises:
        InputInvalid: It is damaged, or names none.
    """
    found = _xtuner(path) if path.suffix == ".py" else _llamafactory(path)
    if found is None:
        raise InputInvalid(f"{path}: names no template", hint=_HINT)
    return found


def _llamafactory_of(folder: Path) -> TrainerTemplate | None:
    for name in LLAMAFACTORY_CONFIGS:
        if (folder / name).is_file() and (found := _llamafactory(folder / name)) is not None:
            return found
    if not folder.is_dir():
        return None
    others = [
        path for path in sorted(folder.iterdir()) if path.suffix in SUFFIXES and path.name not in LLAMAFACTORY_CONFIGS
    ]
    named = [found for path in others if (found := _llamafactory_if_it_is_one(path)) is not None]
    for one in named[1:]:
        if (one.name, one.settings) != (named[0].name, named[0].settings):
            raise _two(named[0], one)
    return named[0] if named else None


def _llamafactory_if_it_is_one(path: Path) -> TrainerTemplate | None:
    """Read a YAML file that may be anything: one that is not LLaMA-Factory's, or no YAML at all, is nothing to us."""
    try:
        return _llamafactory(path) if _OF_LLAMAFACTORY in read_yaml(path) else None
    except InputInvalid:
        return None


def _llamafactory(path: Path) -> TrainerTemplate | None:
    values = read_yaml(path)
    if "top.template" in values:  # the web UI's form: its fields by their place on the page
        values = _board_values(path, values)
    name = values.get("template")
    if name is None:
        return None
    system = values.get("default_system")
    if not isinstance(name, str) or not isinstance(system, str | None):
        wrong = "default_system" if isinstance(name, str) else "template"
        raise InputInvalid(f"{path}: {wrong} is {values[wrong]!r}, expected a text", hint=_HINT)
    settings: dict[str, Value] = {} if system is None else {"default_system": system}
    if values.get("enable_thinking") is False:
        settings["enable_thinking"] = False
    if values.get("preserve_thinking") is True:
        settings["preserve_thinking"] = True
    return TrainerTemplate(trainer="llamafactory", name=name, file=path, settings=tuple(sorted(settings.items())))


def _board_values(path: Path, values: Mapping[str, object]) -> dict[str, object]:
    extra = values.get("train.extra_args") or "{}"
    try:
        more = json.loads(extra) if isinstance(extra, str) else None
    except (ValueError, RecursionError):
        more = None
    if not isinstance(more, dict):
        raise InputInvalid(f"{path}: train.extra_args is {str(extra)[:60]!r}, expected a JSON object", hint=_HINT)
    return {"template": values["top.template"], "enable_thinking": values.get("train.enable_thinking"), **more}


def _xtuner_of(folder: Path) -> TrainerTemplate | None:
    path = folder / XTUNER_CONFIG
    return _xtuner(path) if path.is_file() else None


def _xtuner(path: Path) -> TrainerTemplate | None:
    tree = parse_config(path)
    names = sorted({name for node in ast.walk(tree) if (name := _prompt_template(node)) is not None})
    if len(names) > 1:
        raise InputInvalid(f"{path}: names more than one template: {', '.join(names)}", hint=_HINT)
    if names:
        return TrainerTemplate(trainer="xtuner", name=names[0], file=path)
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and any(_is_name(target) for target in statement.targets):
            if isinstance(statement.value, ast.Constant) and statement.value.value is None:
                return None
            line = statement.lineno
            raise InputInvalid(f"{path}: prompt_template is none of XTuner's own (line {line})", hint=_HINT)
    return None


def parse_config(path: Path) -> ast.Module:
    """Give the syntax tree of a configuration that is Python; nothing of it is run.

    Raises:
        InputInvalid: It cannot be read, or is no Python; the message has the line.
    """
    text = read_text(path, limit_bytes=YAML_LIMIT_BYTES)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a backslash in the user's file, for one
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f"line {error.lineno}" if isinstance(error, SyntaxError) else type(error).__name__
        raise InputInvalid(f"{path}: not Python ({line})", hint="Copy the file again; it is damaged.") from None


def _is_name(target: ast.expr) -> bool:
    return isinstance(target, ast.Name) and target.id == "prompt_template"


def _prompt_template(node: ast.AST) -> str | None:
    """Give the name in `PROMPT_TEMPLATE.name`, written as code or, as XTuner dumps its configurations, as text."""
    if isinstance(node, ast.Attribute):
        of = node.value
        owner = of.id if isinstance(of, ast.Name) else of.attr if isinstance(of, ast.Attribute) else ""
        return node.attr if owner == "PROMPT_TEMPLATE" else None
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        match = _PROMPT_TEMPLATE.fullmatch(node.value)
        return match[1] if match else None
    return None


def _two(one: TrainerTemplate, other: TrainerTemplate) -> InputInvalid:
    return InputInvalid(f"{one.file} names the template {one.name}, {other.file} {other.name}", hint=_HINT)
