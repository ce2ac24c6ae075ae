"""bitsandbytes' own values, of a golden that it made (scripts/update-bnb-goldens), and what cannot be dequantized."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from packager.errors import InputInvalid, NoSpace, PackagerError, Unsupported
from packager.plan import readable_base
from packager.weights import dequantized_base as module
from packager.weights import merged
from packager.weights.dequantized_base import dequantized_base
from tests.weights.make_bnb_goldens import CASES, GOLDENS

STATE = "nf4_nested.weight.quant_state.bitsandbytes__nf4"
BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True}


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    return load_file(GOLDENS)


def state_of(tensor: torch.Tensor) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(bytes(tensor.tolist()))
    return found


def packed(state: dict[str, Any]) -> torch.Tensor:
    return torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)


def write(folder: Path, tensors: dict[str, torch.Tensor], **config: object) -> Path:
    folder.mkdir()
    stored = {name: value for name, value in tensors.items() if not name.startswith("expected.")}
    save_file({**stored, "norm.weight": torch.ones(4)}, folder / "model.safetensors")
    values = {"architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16", "quantization_config": BNB, **config}
    (folder / "config.json").write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"no")
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["f32", "bf16", "f16"])
def test_every_value_is_that_of_bitsandbytes(
    dtype: torch.dtype, tensors: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly, in blocks that begin and end inside its blocks and inside a byte."""
    monkeypatch.setattr(merged, "BLOCK_ELEMENTS", 333)
    word = str(dtype).removeprefix("torch.")
    for name, value in tensors.items():
        if "quant_state" in name:
            tensors[name] = packed({**state_of(value), "dtype": word})
    made = dequantized_base(write(tmp_path / "base-bnb-4bit", tensors), cache=tmp_path / "cache")
    found = load_file(made / "model.safetensors")
    assert set(found) == {*(f"{name}.weight" for name in CASES), "norm.weight"}
    for name, (_, _, shape, _) in CASES.items():
        assert found[f"{name}.weight"].shape == shape
        assert found[f"{name}.weight"].dtype is dtype
        assert torch.equal(found[f"{name}.weight"], tensors[f"expected.{name}"].to(dtype)), name
    config = json.loads((made / "config.json").read_text())
    assert config == {"architectures": ["LlamaForCausalLM"], "torch_dtype": word}
    assert sorted(path.name for path in made.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert made.name == "base-bnb-4bit"


def test_it_is_made_once_and_again_when_the_base_changes(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    base = write(tmp_path / "base", tensors)
    events: list[object] = []
    made = dequantized_base(base, cache=tmp_path / "cache", emit=events.append)
    assert events
    events.clear()
    assert dequantized_base(base, cache=tmp_path / "cache", emit=events.append) == made
    assert not events
    (base / "model.safetensors").touch()
    changed = dequantized_base(base, cache=tmp_path / "cache")
    assert changed != made
    (base / "chat_template.jinja").write_text("new")
    again = dequantized_base(base, cache=tmp_path / "cache")
    assert again != changed
    assert (again / "chat_template.jinja").read_text() == "new"


def test_a_base_in_16_bits_is_itself(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    plain = write(tmp_path / "plain", tensors, quantization_config=None)
    assert dequantized_base(plain, cache=tmp_path / "cache") == plain
    quantized = write(tmp_path / "base", tensors)
    assert readable_base(quantized, dequantize=False) == quantized
    assert not (tmp_path / "cache").exists()


def _without(name: str) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda tensors: tensors.pop(name)


def _state(**changes: object) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda tensors: tensors.update({STATE: packed({**state_of(tensors[STATE]), **changes})})


def _other(name: str, value: torch.Tensor) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda tensors: tensors.update({name: value})


SPOILED: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], type[PackagerError], str]] = {
    "no-scales": (_without("nf4.weight.absmax"), InputInvalid, "has no nf4.weight.absmax"),
    "no-table": (_without("nf4.weight.quant_map"), InputInvalid, "has no nf4.weight.quant_map"),
    "no-nested-table": (_without("nf4_nested.weight.nested_quant_map"), InputInvalid, "nested_quant_map"),
    "no-weight": (_without("nf4.weight"), InputInvalid, "has no nf4.weight"),
    "few-scales": (
        _other("nf4.weight.absmax", torch.ones(3)),
        InputInvalid,
        "has 3 values of F32, nf4.weight needs 30",
    ),
    "other-shape": (_state(shape=[96, 100]), InputInvalid, "nf4_nested.weight needs 4800"),
    "no-shape": (_state(shape=[]), InputInvalid, "shape is"),
    "no-block": (_state(blocksize=0), InputInvalid, "blocksize is 0"),
    "other-type": (_state(dtype="float64"), Unsupported, "was stored as 'float64'"),
    "no-json": (_other(STATE, torch.zeros(9, dtype=torch.uint8)), InputInvalid, "not JSON"),
    "not-finite": (_other("nf4.weight.absmax", torch.full((30,), torch.nan)), InputInvalid, "not finite|does not hold"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_what_is_damaged_is_named_and_nothing_is_left(
    case: str, tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    spoil, kind, words = SPOILED[case]
    spoil(tensors)
    with pytest.raises(kind, match=words):
        dequantized_base(write(tmp_path / "base", tensors), cache=tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.suffix == ".safetensors"]


def test_other_quantizations_and_full_disks_are_named(
    tensors: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    awq = write(tmp_path / "awq", tensors, quantization_config={"quant_method": "awq"})
    with pytest.raises(Unsupported, match="not by bitsandbytes to 4 bits"):
        dequantized_base(awq, cache=tmp_path / "cache")
    usage = module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(NoSpace, match=r"takes 0\.00 GB, the disk has 0\.00 GB free"):
        dequantized_base(write(tmp_path / "base", tensors), cache=tmp_path / "cache")
