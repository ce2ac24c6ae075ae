"""An XTuner checkpoint, `iter_N.pth`, as an adapter folder that peft could have saved.

The file holds the LoRA's weights beside what mmengine keeps to go on training, and nothing of the LoRA's settings: the rank is
seen from the shapes, and alpha stands in the configuration that XTuner dumps into the same folder. That is Python, which is
parsed and never run.

Source: XTuner 0.2.0, `model/sft.py` (`state_dict`), `tools/model_converters/pth_to_hf.py`; mmengine 0.10.7, `dump_config`.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

from packager.durable import sha256_file
from packager.errors import InputInvalid, Unsupported
from packager.events import Emit, Noted
from packager.formats.checkpoint import list_names
from packager.formats.json_file import read_text
from packager.formats.safetensors import read_header
from packager.sources.linked_folder import made_once
from packager.sources.pickled_weights import STAGE, convert_pickle
from packager.sources.trainer_config import XTUNER_CONFIG, parse_config

_KIND = "converted"
_FORM = "xtuner-1"  # of what is kept in the cache
_IN_FRONT = ("module.", "llm.")  # DeepSpeed's and XTuner's own; peft's names follow
_SAVE = re.compile(r"(?:iter|epoch)_(\d{1,12})\.pth", re.ASCII)
_LORA = re.compile(r"base_model\.model\..+\.lora_(?P<side>[AB])\.weight")
_COPIED = ("lora_alpha", "use_rslora", "use_dora", "bias", "fan_in_fan_out", "alpha_pattern", "rank_pattern")
_CONVERT = "xtuner convert pth_to_hf CONFIG"


def is_xtuner_file(path: Path) -> bool:
    """Say whether a path is a file, or DeepSpeed's folder, that XTuner saves."""
    return path.suffix == ".pth" and path.exists()


def newest_xtuner_file(folder: Path) -> Path | None:
    """Give the newest `iter_N.pth` or `epoch_N.pth` of a folder without an adapter of peft's, None where there is none."""
    names = list_names(folder)
    found = [(int(match[1]), name) for name in names if (match := _SAVE.fullmatch(name))]
    return folder / max(found)[1] if found and "adapter_config.json" not in names else None


def adapter_of_xtuner(path: Path, *, emit: Emit) -> Path:
    """Give an adapter folder, in the cache, made of an `iter_N.pth` and the configuration beside it.

    Raises:
        InputInvalid: The file is damaged; there is no configuration with alpha beside it, or two that differ.
        UnsafeInput: The file does what no file with weights does.
        Unsupported: It is DeepSpeed's folder, or holds a whole model.
    """
    if path.is_dir():
        raise Unsupported(
            f"{path}: a folder of DeepSpeed's, with the weights in pieces",
            hint=f"Put them together where they were trained: {_CONVERT} {path} DIR, and pass DIR.",
        )
    config, settings = _settings(path)
    text = read_text(config)
    facts = [_FORM, path.stem, sha256_file(path, emit=emit, stage=STAGE), text]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def make(staging: Path) -> None:
        weights = staging / "adapter_model.safetensors"
        emit(Noted(stage=STAGE, text=f"{path}: is converted to safetensors, once, with {config.name}"))
        convert_pickle(path, weights, strip=_IN_FRONT, peft=True, emit=emit)
        made = {**settings, **_shape_of(path, weights), "peft_type": "LORA", "task_type": "CAUSAL_LM"}
        (staging / "adapter_config.json").write_text(json.dumps(made, indent=2, sort_keys=True), encoding="utf-8")
        (staging / XTUNER_CONFIG).write_text(text, encoding="utf-8")

    return made_once(_KIND, key, f"{path.absolute().parent.name}-{path.stem}".lstrip("-"), make)


def _shape_of(path: Path, weights: Path) -> dict[str, object]:
    """Give the rank and the modules that the tensors have."""
    ranks, modules = set(), set()
    for entry in read_header(weights):
        match = _LORA.fullmatch(entry.name)
        if match is None:
            raise Unsupported(
                f"{path}: holds {entry.name}, which is no part of a LoRA",
                hint=f"Convert it where it was trained: {_CONVERT} {path} DIR, and pass DIR.",
            )
        if match["side"] == "A" and entry.shape:
            ranks.add(entry.shape[0])
            modules.add(entry.name.split(".lora_A", 1)[0].rsplit(".", 1)[-1])
    if len(ranks) != 1:
        raise InputInvalid(
            f"{path}: its LoRA has {len(ranks)} ranks ({', '.join(map(str, sorted(ranks)))}), XTuner trains one",
            hint=f"Convert it where it was trained: {_CONVERT} {path} DIR, and pass DIR.",
        )
    return {"r": ranks.pop(), "target_modules": sorted(modules)}


def _settings(path: Path) -> tuple[Path, dict[str, object]]:
    """Give the configuration beside a checkpoint, and the LoRA's settings and the base's name in it."""
    found: list[tuple[Path, dict[str, object]]] = []
    for file in sorted(path.absolute().parent.glob("*.py")):
        settings = read_lora_settings(file)
        if settings:
            found.append((path.parent / file.name, settings))
    if not found:
        raise InputInvalid(
            f"{path}: no XTuner configuration beside it says lora_alpha, and the file itself does not",
            hint=f"Copy the configuration it was trained with into {path.parent}, or convert it there: "
            f"{_CONVERT} {path} DIR, and pass DIR.",
        )
    for other, settings in found[1:]:
        if settings != found[0][1]:
            raise InputInvalid(
                f"{path}: {found[0][0].name} and {other.name} beside it have different settings of the LoRA",
                hint="Leave only the one it was trained with.",
            )
    return found[0]


def read_lora_settings(path: Path) -> dict[str, object]:
    """Give the settings of the LoRA in a configuration of XTuner, by peft's names, and `base_model_name_or_path`.

    Returns:
        Nothing when the file has no LoRA.

    Raises:
        InputInvalid: It is no Python, or a setting is computed and not written down.
    """
    tree = parse_config(path)
    constants = {
        target.id: statement.value
        for statement in tree.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict"):
            continue
        values = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg is not None}
        if not _names_lora(values.get("type")):
            continue
        found = {key: _constant(path, key, values[key], constants) for key in _COPIED if key in values}
        modules = values.get("modules_to_save")
        if modules is not None and _constant(path, "modules_to_save", modules, constants) is not None:
            raise Unsupported(
                f"{path}: modules_to_save trains whole modules", hint=f"{_CONVERT} FILE.pth DIR, and pass DIR."
            )
        if not isinstance(found.get("lora_alpha"), int | float):
            raise InputInvalid(f"{path}: its LoraConfig has no lora_alpha", hint="Write lora_alpha=NUMBER into it.")
        base = constants.get("pretrained_model_name_or_path")
        if isinstance(base, ast.Constant) and isinstance(base.value, str):
            found["base_model_name_or_path"] = base.value
        return found
    return {}


def _names_lora(value: ast.expr | None) -> bool:
    match value:
        case ast.Name(id="LoraConfig") | ast.Attribute(attr="LoraConfig"):
            return True
        case ast.Constant(value=str(text)):  # as mmengine dumps it: 'peft.LoraConfig'
            return text.rpartition(".")[2] == "LoraConfig"
    return False


def _constant(path: Path, key: str, value: ast.expr, constants: Mapping[str, ast.expr]) -> object:
    if isinstance(value, ast.Name):
        value = constants.get(value.id, value)
    try:
        return ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise InputInvalid(
            f"{path}: {key} is computed (line {value.lineno}), and the file is read, not run",
            hint=f"Write the number there, or use the configuration that XTuner dumped beside {path.name}.",
        ) from None
