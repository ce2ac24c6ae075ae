"""--adapter on the command line: each command takes all adapters, in order."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from packager.commands.merge import merge
from packager.commands.plan import plan
from tests.peft_adapters import load, train


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
