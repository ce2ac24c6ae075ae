"""Bad input: one line of cause with the file and both values, a hint, the documented exit code, and nothing is lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.run_packager import error_lines, run_packager

Spoil = Callable[[Path, Path], None]


def _edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _remove_base(base: Path, adapter: Path) -> None:
    shutil.rmtree(base)


def _empty_base(base: Path, adapter: Path) -> None:
    shutil.rmtree(base)
    base.mkdir()


def _truncate(base: Path, adapter: Path) -> None:
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def _missing_shard(base: Path, adapter: Path) -> None:
    tensors = load_file(base / "model.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "model-00001-of-00002.safetensors")}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    (base / "model.safetensors").unlink()


def _other_base(base: Path, adapter: Path) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    name = next(name for name in tensors if "q_proj.lora_A" in name)
    tensors[name] = torch.zeros(4, 96)
    save_file(tensors, adapter / "adapter_model.safetensors")


def _infinite_adapter(base: Path, adapter: Path) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    name = next(name for name in tensors if "v_proj.lora_B" in name)
    tensors[name][0, 0] = float("nan")
    save_file(tensors, adapter / "adapter_model.safetensors")


def _infinite_base(base: Path, adapter: Path) -> None:
    tensors = load_file(base / "model.safetensors")
    tensors["model.norm.weight"][3] = float("inf")
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})


def _unmatched(base: Path, adapter: Path) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    for side in ("A", "B"):
        name = next(n for n in tensors if f"layers.1.self_attn.q_proj.lora_{side}" in n)
        tensors[name.replace("layers.1.", "layers.9.")] = tensors.pop(name)
    save_file(tensors, adapter / "adapter_model.safetensors")


def _unknown_architecture(base: Path, adapter: Path) -> None:
    _edit_json(base / "config.json", architectures=["PackyForCausalLM"])


def _no_template(base: Path, adapter: Path) -> None:
    config = json.loads((base / "tokenizer_config.json").read_text())
    config.pop("chat_template")
    (base / "tokenizer_config.json").write_text(json.dumps(config))


def _pickle_base(base: Path, adapter: Path) -> None:
    (base / "model.safetensors").rename(base / "pytorch_model.bin")


def _pickle_adapter(base: Path, adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")


def _auto_map(base: Path, adapter: Path) -> None:
    _edit_json(base / "config.json", auto_map={"AutoModelForCausalLM": "modeling.Packy"})


def _dora(base: Path, adapter: Path) -> None:
    _edit_json(adapter / "adapter_config.json", use_dora=True)


def _loha(base: Path, adapter: Path) -> None:
    _edit_json(adapter / "adapter_config.json", peft_type="LOHA")


def _config_not_json(base: Path, adapter: Path) -> None:
    (base / "config.json").write_text("{")


CASES = {
    "missing-base": (_remove_base, 3, ("base",)),
    "empty-base": (_empty_base, 3, ("base",)),
    "config-not-json": (_config_not_json, 3, ("config.json",)),
    "truncated-shard": (_truncate, 3, ("model.safetensors",)),
    "index-names-missing-shard": (_missing_shard, 3, ("model-00001-of-00002.safetensors",)),
    "adapter-for-another-base": (_other_base, 3, ("96", "64", "q_proj")),
    "adapter-not-finite": (_infinite_adapter, 3, ("v_proj",)),
    "base-not-finite": (_infinite_base, 3, ("norm",)),
    "adapter-matches-nothing": (_unmatched, 3, ("layers.9.self_attn.q_proj",)),
    "unknown-architecture": (_unknown_architecture, 12, ("PackyForCausalLM",)),
    "no-chat-template": (_no_template, 12, ("template",)),
    "pickle-base": (_pickle_base, 4, ("pytorch_model.bin",)),
    "pickle-adapter": (_pickle_adapter, 4, ("adapter_model.bin",)),
    "auto-map": (_auto_map, 4, ("auto_map", "config.json")),
    "dora": (_dora, 3, ("use_dora", "has no lora_magnitude_vector for ")),
    "loha": (_loha, 12, ("LOHA",)),
}


@pytest.mark.parametrize("case", CASES, ids=list(CASES))
def test_is_refused_by_build_in_one_line(
    case: str, tiny: Callable[[str], Path], tiny_lora: Callable[[str], Path], tmp_path: Path
) -> None:
    spoil, code, words = CASES[case]
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    shutil.copytree(tiny("qwen2.5"), base)
    shutil.copytree(tiny_lora("qwen2.5"), adapter)
    spoil(base, adapter)
    before = _contents(tmp_path)
    finished = run_packager("build", base, adapter, "-o", tmp_path / "out", "--quant", "q8_0", "--no-register")
    lines = error_lines(finished)
    assert finished.code == code, finished.err
    assert sum(line.startswith("error: ") for line in lines) == 1, lines
    assert any(line.startswith("hint: ") for line in lines), lines
    for word in words:
        assert word in lines[0], lines[0]
    assert not list((tmp_path / "out").glob("*.gguf"))
    assert {path: size for path, size in _contents(tmp_path).items() if "out" not in path.parts} == before


def test_plan_lists_every_problem_at_once(
    tiny: Callable[[str], Path], tiny_lora: Callable[[str], Path], tmp_path: Path
) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    shutil.copytree(tiny("qwen2.5"), base)
    shutil.copytree(tiny_lora("qwen2.5"), adapter)
    _unknown_architecture(base, adapter)
    _loha(base, adapter)
    finished = run_packager("plan", base, adapter, "-o", tmp_path / "out", "--name", "no spaces allowed")
    errors = [line for line in error_lines(finished) if line.startswith("error: ")]
    assert finished.code != 0
    assert [any(word in line for line in errors) for word in ("PackyForCausalLM", "LOHA", "no spaces allowed")] == [
        True,
        True,
        True,
    ]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("build",), "BASE"),
        (("build", "b", "-o", "o", "--quant", "q9_9"), "q9_9"),
        (("build", "b", "-o", "o", "--gate", "nonsense"), "nonsense"),
        (("nothing",), "nothing"),
    ],
    ids=["no-base", "unknown-quant", "gate-without-limit", "unknown-command"],
)
def test_usage_errors_have_exit_code_2(arguments: tuple[str, ...], word: str) -> None:
    finished = run_packager(*arguments)
    lines = error_lines(finished)
    assert finished.code == 2
    assert word in lines[0]
    assert lines[1].startswith("hint: packager")


def _contents(folder: Path) -> dict[Path, int]:
    return {path.relative_to(folder): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
