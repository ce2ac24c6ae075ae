"""--adapter and --dequantize-base on the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from packager.commands.merge import merge
from packager.commands.plan import plan
from packager.errors import Unsupported
from tests.peft_adapters import load, train
from tests.weights.make_bnb_goldens import GOLDENS


def test_plan_and_merge_take_every_adapter(
    tiny: Callable[[str], Path], tiny_lora: Callable[[str], Path], tmp_path: Path
) -> None:
    base, first = tiny("llama3.1"), tiny_lora("llama3.1")
    second = train(base, tmp_path / "dpo", r=2, lora_alpha=4, target_modules=["q_proj"], use_dora=True)
    words = [str(base), str(first), "--adapter", str(second), "-o", str(tmp_path / "out")]
    planned = CliRunner().invoke(plan, [*words, "--json"], catch_exceptions=False)
    assert json.loads(planned.stdout)["adapter"] == f"{first.name} + dpo"
    made = CliRunner().invoke(merge, [*words, "--dtype", "float32", "-q"], catch_exceptions=False)
    assert made.exit_code == 0
    name = "model.layers.1.self_attn.q_proj.weight"
    expected = load(base, first, second).merge_and_unload().state_dict()[name]
    found = load_file(tmp_path / "out" / "model.safetensors")[name]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def quantized(base: Path, output: Path, rounded: Path) -> None:
    """A copy of a base with its q_proj in 4 bits, and one with the values that these have, in 16."""
    table = load_file(GOLDENS)["nf4.weight.quant_map"]
    weights = load_file(base / "model.safetensors")
    stored, values = dict(weights), dict(weights)
    for name in [name for name in weights if name.endswith("q_proj.weight")]:
        blocks = weights[name].float().reshape(-1, 64)
        scales = blocks.abs().amax(dim=1)
        codes = (blocks / scales[:, None] - table[:, None, None]).abs().argmin(dim=0)
        values[name] = (table[codes] * scales[:, None]).to(torch.bfloat16).reshape(weights[name].shape)
        flat = codes.reshape(-1, 2).to(torch.uint8)
        state = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": list(weights[name].shape)}
        stored[name] = (flat[:, 0] << 4 | flat[:, 1]).reshape(-1, 1)
        stored[f"{name}.absmax"], stored[f"{name}.quant_map"] = scales, table.clone()
        text = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
        stored[f"{name}.quant_state.bitsandbytes__nf4"] = text
    for folder, tensors in ((output, stored), (rounded, values)):
        shutil.copytree(base, folder)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (output / "config.json").write_text(json.dumps(config))


def test_a_base_in_4_bits_is_refused_or_taken_as_training_had_it(
    tiny: Callable[[str], Path], tiny_lora: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACKAGER_CACHE", str(tmp_path / "cache"))
    base, rounded, lora, out = tmp_path / "Tiny-bnb-4bit", tmp_path / "rounded", tiny_lora("llama3.1"), tmp_path / "out"
    quantized(tiny("llama3.1"), base, rounded)
    words = [str(base), str(lora), "-o", str(out), "--dtype", "float32", "-q"]
    with pytest.raises(Unsupported) as caught:
        CliRunner().invoke(merge, words, catch_exceptions=False)
    assert "--dequantize-base" in caught.value.hint
    assert not out.exists()
    assert CliRunner().invoke(merge, [*words, "--dequantize-base"], catch_exceptions=False).exit_code == 0
    expected = load(rounded, lora).merge_and_unload().state_dict()
    for name, found in load_file(out / "model.safetensors").items():
        torch.testing.assert_close(found, expected[name], rtol=1e-6, atol=1e-6)
