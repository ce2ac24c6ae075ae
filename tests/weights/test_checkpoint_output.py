from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from packager.artifacts import Dtype
from packager.errors import InputInvalid
from packager.weights.checkpoint_files import write_checkpoint_files
from packager.weights.checkpoint_output import INDEX_NAME, write_checkpoint_weights
from packager.weights.merged import MergedTensors
from tests.weights.made_checkpoints import checkpoint

TENSORS = {
    "b": torch.randn(6, 4, generator=torch.Generator().manual_seed(0)),
    "a": torch.randn(3, 4, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16),
    "position_ids": torch.arange(5),
    "scalar": torch.tensor(0.5),
}
TORCH = {Dtype.FLOAT32: torch.float32, Dtype.BFLOAT16: torch.bfloat16, Dtype.FLOAT16: torch.float16}


def write(base: Path, output: Path, dtype: Dtype, limit: int = 10**9) -> tuple[tuple[Path, ...], int]:
    output.mkdir()
    written = []
    with MergedTensors(checkpoint(base, TENSORS), None) as merged:
        files = write_checkpoint_weights(
            merged, dtype, output, advance=lambda size, name: written.append(size), max_shard_bytes=limit
        )
    return files, sum(written)


@pytest.mark.parametrize("dtype", list(Dtype), ids=[dtype.value for dtype in Dtype])
def test_safetensors_reads_what_was_written_rounded_as_torch_does(dtype: Dtype, tmp_path: Path) -> None:
    (file,), advanced = write(tmp_path / "base", tmp_path / "out", dtype)
    found = load_file(file)
    assert advanced == sum(tensor.nbytes for tensor in found.values())
    assert list(found) == sorted(TENSORS)
    for name, tensor in TENSORS.items():
        expected = tensor.float().to(TORCH[dtype]) if tensor.is_floating_point() else tensor
        assert torch.equal(found[name], expected), name
    with safe_open(file, "pt") as opened:
        assert opened.metadata() == {"format": "pt"}


def test_shards_have_an_index_and_hold_everything_once(tmp_path: Path) -> None:
    files, _ = write(tmp_path / "base", tmp_path / "out", Dtype.FLOAT32, limit=150)
    assert [file.name for file in files] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        INDEX_NAME,
    ]
    index = json.loads(files[-1].read_text())
    placed = {name: file.name for file in files[:-1] for name in load_file(file)}
    assert index["weight_map"] == placed
    assert index["metadata"]["total_size"] == sum(t.nbytes for file in files[:-1] for t in load_file(file).values())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(file.name for file in files)


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    (first,), _ = write(tmp_path / "base", tmp_path / "1", Dtype.BFLOAT16)
    (second,), _ = write(tmp_path / "base", tmp_path / "2", Dtype.BFLOAT16)
    assert first.read_bytes() == second.read_bytes()


def test_a_value_beyond_the_dtype_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base", {"w": torch.full((2, 2), 1e6)})
    (tmp_path / "out").mkdir()
    with MergedTensors(base, None) as merged, pytest.raises(InputInvalid, match="tensor w has a value that F16"):
        write_checkpoint_weights(merged, Dtype.FLOAT16, tmp_path / "out", advance=lambda size, name: None)
    assert list((tmp_path / "out").iterdir()) == []
    assert not math.isfinite(float(torch.tensor(1e6).half()))


def test_configuration_says_the_dtype_and_keeps_the_rest(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base", TENSORS)
    (base.folder / "config.json").write_text('{"dtype": "bfloat16", "torch_dtype": "bfloat16", "x": {"é": [1]}}')
    (base.folder / "tokenizer.json").write_text("{}")
    (base.folder / "pytorch_model.bin").write_bytes(b"no")
    (base.folder / "modeling.py").write_text("no")
    output = tmp_path / "out"
    output.mkdir()
    files = write_checkpoint_files(base, Dtype.FLOAT16, "{{ é }}", output)
    names = ["chat_template.jinja", "config.json", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(path.name for path in files) == names
    assert sorted(path.name for path in output.iterdir()) == names
    config = json.loads((output / "config.json").read_text(encoding="utf-8"))
    assert config == {"dtype": "float16", "torch_dtype": "float16", "x": {"é": [1]}}
    assert (output / "chat_template.jinja").read_text(encoding="utf-8") == "{{ é }}"
    assert json.loads((output / "tokenizer_config.json").read_text(encoding="utf-8")) == {"chat_template": "{{ é }}"}


def test_without_a_template_the_bases_files_are_copied(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base", TENSORS)
    (base.folder / "tokenizer_config.json").write_text('{"chat_template":  "old"}')
    (base.folder / "config.json").write_text("{}")
    (tmp_path / "out").mkdir()
    write_checkpoint_files(base, Dtype.FLOAT32, None, tmp_path / "out")
    assert (tmp_path / "out/tokenizer_config.json").read_text() == '{"chat_template":  "old"}'
    assert json.loads((tmp_path / "out/config.json").read_text()) == {"torch_dtype": "float32"}
