"""LoRA on parameters of a tiny Qwen3-MoE, made by peft: what is accounted for, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from packager.artifacts import ExpertPair, LoraPair
from packager.errors import InputInvalid, PackagerError, Unsupported
from packager.formats.adapter import read_adapter
from packager.formats.checkpoint import read_checkpoint
from packager.formats.expert_targets import parameter_of
from tests.architectures import load_float32, make_architecture, make_peft_lora

EXPERTS = "base_model.model.model.layers.1.mlp.experts"
BOTH = ("experts.gate_up_proj", "experts.down_proj")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experts") / "base"
    make_architecture("qwen3-moe", folder)
    return folder


@pytest.fixture(scope="module")
def lora(base: Path) -> Path:
    make_peft_lora("qwen3-moe", base, base.with_name("lora"))
    return base.with_name("lora")


def test_every_expert_gets_its_part(base: Path, lora: Path) -> None:
    updates = read_adapter(lora, read_checkpoint(base)).updates
    experts = [update for update in updates if isinstance(update, ExpertPair)]
    assert len(experts) == 2 * 4 * 3  # layers, experts, matrices
    up = next(pair for pair in experts if pair.target == "model.layers.1.mlp.experts.2.up_proj.weight")
    assert (up.experts, up.expert, up.first_output, up.scale, up.transposed) == (4, 2, 256, 2.0, False)
    assert up.a.name == f"{EXPERTS}.base_layer.lora_A.weight"
    routers = [update.target for update in updates if isinstance(update, LoraPair) and ".mlp.gate." in update.target]
    assert routers == ["model.layers.0.mlp.gate.weight", "model.layers.1.mlp.gate.weight"]
    file_names = set(load_file(lora / "adapter_model.safetensors"))
    assert {entry.name for entry in read_adapter(lora, read_checkpoint(base)).tensors} == file_names


@pytest.mark.parametrize(
    ("module", "parameters", "depths", "expected"),
    [
        pytest.param("m.experts.base_layer", BOTH, 2, "m.experts.gate_up_proj", id="inner"),
        pytest.param("m.experts", BOTH, 2, "m.experts.down_proj", id="outer"),
        pytest.param("m.experts", ("down_proj",), 1, "m.experts.down_proj", id="only-down"),
        pytest.param("m.experts", ("m.experts.gate_up_proj",), 1, "m.experts.gate_up_proj", id="only-gate-up"),
        pytest.param("m.gate", ("gate.weight",), 1, "m.gate.weight", id="matrix"),
        pytest.param("m.experts", BOTH, 1, None, id="one-of-two-missing"),
        pytest.param("m.experts", ("experts.down_proj", "experts.other"), 2, None, id="unknown-parameter"),
        pytest.param("m.experts", (), 1, None, id="no-parameters"),
        pytest.param("m.gate", ("other_gate.weight",), 1, None, id="another-module"),
    ],
)
def test_the_parameter_follows_from_the_depth(
    module: str, parameters: tuple[str, ...], depths: int, expected: str | None
) -> None:
    assert parameter_of(module, parameters, depths) == expected


def changed(lora: Path, folder: Path, tensors: dict[str, torch.Tensor | None], **config: object) -> Path:
    shutil.copytree(lora, folder)
    weights = load_file(folder / "adapter_model.safetensors") | tensors
    save_file(
        {name: value for name, value in weights.items() if value is not None}, folder / "adapter_model.safetensors"
    )
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return folder


WRONG: dict[str, tuple[dict[str, torch.Tensor | None], dict[str, object], type[PackagerError], str]] = {
    "rank": ({}, {"rank_pattern": {"experts.down_proj": 8}}, InputInvalid, "4 experts of rank 8, wants 32 in place of 16"),
    "inputs": (
        {f"{EXPERTS}.base_layer.lora_A.weight": torch.ones(16, 99)}, {}, InputInvalid, "wants 256 in place of 99",
    ),
    "outputs": ({f"{EXPERTS}.lora_B.weight": torch.ones(99, 16)}, {}, InputInvalid, "wants 256 in place of 99"),
    "stored": (
        {f"{EXPERTS}.lora_A.weight": torch.ones(16, 256, dtype=torch.int8)}, {}, Unsupported, "stored as I8",
    ),
    "one-side": ({f"{EXPERTS}.lora_B.weight": None}, {}, InputInvalid, "has lora_A but no lora_B"),
    "one-depth": (
        {f"{EXPERTS}.lora_A.weight": None, f"{EXPERTS}.lora_B.weight": None}, {}, InputInvalid, "matches no tensor",
    ),
    "one-layer": (
        {f"{EXPERTS}{depth}.lora_{side}.weight": None for depth in ("", ".base_layer") for side in "AB"}, {},
        InputInvalid, "no lora_A and lora_B for model.layers.1.mlp.experts.down_proj",
    ),
    "twice": (
        {f"{EXPERTS}.0.up_proj.lora_A.weight": torch.ones(4, 256), f"{EXPERTS}.0.up_proj.lora_B.weight": torch.ones(256, 4)},
        {}, InputInvalid, "changes model.layers.1.mlp.experts.0.up_proj.weight twice",
    ),
    "unknown": ({}, {"target_parameters": ["gate.weight"]}, InputInvalid, "matches no tensor"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused(case: str, base: Path, lora: Path, tmp_path: Path) -> None:
    tensors, config, error, text = WRONG[case]
    folder = changed(lora, tmp_path / "lora", tensors, **config)
    with pytest.raises(error, match=text):
        read_adapter(folder, read_checkpoint(base))


def test_a_trained_bias_of_experts_is_refused(tmp_path: Path) -> None:
    """gpt-oss has biases for its experts, stacked to a matrix that peft takes for a layer."""
    from peft import LoraConfig, get_peft_model

    make_architecture("gpt-oss", tmp_path / "base")
    model = load_float32("gpt-oss", tmp_path / "base")
    parameters = ["experts.gate_up_proj", "experts.gate_up_proj_bias"]
    config = LoraConfig(r=2, target_modules=["q_proj"], target_parameters=parameters)
    get_peft_model(model, config).save_pretrained(tmp_path / "lora")
    with pytest.raises(InputInvalid, match=r"experts\.lora_A\.weight' matches no tensor"):
        read_adapter(tmp_path / "lora", read_checkpoint(tmp_path / "base"))
