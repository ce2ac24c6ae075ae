"""The bench's shapes against the published models and the real classes that have them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.benchmark.models import make_model
from scripts.benchmark.shapes import LORA_RANK, SHAPES, Shape

# Numbers of the tensors in the published files: the "Safetensors" line of each model's page.
PUBLISHED = {"135M": 134_515_008, "0.5B": 494_032_768, "1.5B": 1_543_714_304, "7B": 7_615_616_512}


@pytest.mark.parametrize("size", PUBLISHED)
def test_a_shape_has_the_parameters_of_the_model_it_is_named_for(size: str) -> None:
    assert SHAPES[size].parameters == pytest.approx(PUBLISHED[size], rel=0.01)


def test_every_real_shape_is_compared_with_its_model() -> None:
    assert {size for size in SHAPES if size != "tiny"} == set(PUBLISHED)


@pytest.mark.parametrize("size", SHAPES)
def test_the_tensors_are_those_of_transformers_and_peft(
    size: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The written configurations, read by the real classes on the meta device: every name and every shape, nothing else."""
    import torch
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = SHAPES[size]
    monkeypatch.setattr("scripts.benchmark.models._write", lambda *_: None)
    make_model(shape, tmp_path, tmp_path / "model")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path / "model/base"))
        wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        if shape.tied:
            del wanted["lm_head.weight"]  # the embedding under a second name, which no file has
        assert {tensor.name: tensor.shape for tensor in shape.base_tensors()} == wanted
        lora = get_peft_model(model, LoraConfig(r=LORA_RANK, target_modules="all-linear", task_type="CAUSAL_LM"))
    wanted = {name: tuple(tensor.shape) for name, tensor in get_peft_model_state_dict(lora).items()}
    assert {tensor.name: tensor.shape for tensor in shape.lora_tensors()} == wanted
    modules = {name.split(".")[-3] for name in wanted}
    assert set(json.loads((tmp_path / "model/lora/adapter_config.json").read_text())["target_modules"]) == modules


def small(**changes: int) -> Shape:
    """A shape of some thousand parameters."""
    dimensions = {"hidden": 32, "inner": 64, "layers": 1, "heads": 4, "heads_kv": 2, "vocabulary": 100} | changes
    return Shape(name="small", published="-", architecture="qwen2", tied=False, template="qwen", **dimensions)


def test_an_untied_shape_has_an_output_layer() -> None:
    assert [tensor.name for tensor in small().base_tensors()][-1] == "lm_head.weight"
