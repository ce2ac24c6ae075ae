"""The merged checkpoint that is written in the pass of the GGUF files: what `packager merge` writes, byte for byte."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from packager.artifacts import Dtype, Quant
from packager.errors import InputInvalid
from packager.formats.adapter import read_adapter
from packager.formats.checkpoint import read_checkpoint
from packager.formats.gguf import read_gguf
from packager.sources.llama_cpp_tree import LlamaCppTree
from packager.stages.weights import HF_FOLDER, KeptCheckpoint, MergeJob, QuantizeJob, merge, quantize
from packager.weights.checkpoint_output import CheckpointOutput
from packager.weights.merged import MergedTensors
from tests.small_llamas import SmallLlama

CARD = "---\nlicense: apache-2.0\n---\n# A model\n"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("dtype", list(Dtype), ids=[dtype.value for dtype in Dtype])
def test_it_is_what_merge_writes(
    dtype: Dtype, tiny: Callable[[str], Path], tiny_lora: Callable[[str], Path], tree: LlamaCppTree, tmp_path: Path
) -> None:
    """Llama's q and k are permuted for a GGUF and must not be here; tied, it has a tensor that no GGUF asks for twice."""
    shutil.copytree(tiny("llama3.1"), tmp_path / "base")
    (tmp_path / "base" / "README.md").write_text(CARD)
    base = read_checkpoint(tmp_path / "base")
    adapter = read_adapter(tiny_lora("llama3.1"), base)
    job = QuantizeJob(
        base=base, adapter=adapter, quants=(Quant.Q8_0,), template=None, name="", file_stem="m", output=tmp_path, tree=tree,
        keep_hf=KeptCheckpoint(dtype=dtype, chat_template="{{ messages }}"),
    )  # fmt: skip
    (gguf,) = quantize(job)
    merged = tmp_path / "merged"
    merged.mkdir()
    merge(MergeJob(base=base, adapter=adapter, dtype=dtype, output=merged, chat_template="{{ messages }}"))
    found = contents(tmp_path / HF_FOLDER)
    assert found == contents(merged)
    assert found["README.md"].decode() == CARD
    assert found["chat_template.jinja"].decode() == "{{ messages }}"
    assert json.loads(found["tokenizer_config.json"])["chat_template"] == "{{ messages }}"
    assert read_gguf(gguf.path).value("general.license") == "apache-2.0"


def test_transformers_loads_it(tree: LlamaCppTree, tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    SmallLlama(hidden=64, inner=96, layers=2).write(tmp_path / "base")
    base = read_checkpoint(tmp_path / "base")
    kept = KeptCheckpoint(dtype=Dtype.BFLOAT16, chat_template=None)
    quantize(
        QuantizeJob(
            base=base,
            adapter=None,
            quants=(Quant.BF16,),
            template=None,
            name="",
            file_stem="m",
            output=tmp_path,
            tree=tree,
            keep_hf=kept,
        )
    )
    ids = torch.arange(20)[None]
    with torch.no_grad():
        ours, theirs = (
            LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits
            for folder in (tmp_path / HF_FOLDER, tmp_path / "base")
        )
    assert torch.equal(ours, theirs)


def test_blocks_may_come_in_any_order_twice_or_not_at_all(tmp_path: Path) -> None:
    SmallLlama(hidden=64, inner=96, layers=2).write(tmp_path / "base")
    base = read_checkpoint(tmp_path / "base")
    expected = tmp_path / "expected"
    expected.mkdir()
    merge(MergeJob(base=base, adapter=None, dtype=Dtype.FLOAT32, output=expected, chat_template=None))
    counted: list[int] = []
    with MergedTensors(base, None) as merged:
        shards = {"max_shard_bytes": 100_000}
        for _ in range(2):  # the second time over what the first has left
            output = tmp_path / "out"
            output.mkdir(exist_ok=True)
            advance = lambda size, name: counted.append(size)  # noqa: E731
            with CheckpointOutput(merged, Dtype.FLOAT32, output, advance=advance, **shards) as files:  # type: ignore[arg-type]
                for name in ("model.norm.weight", "lm_head.weight", "model.norm.weight"):
                    merged.whole(name)
                paths = files.finish()
    assert len(paths) > 2
    assert sum(counted) == 2 * sum(entry.size_bytes for entry in base.tensors) * 2
    index = json.loads((output / "model.safetensors.index.json").read_text())
    from safetensors.torch import load_file

    whole = load_file(expected / "model.safetensors")
    for name, file in index["weight_map"].items():
        assert torch.equal(load_file(output / file)[name], whole[name])
    assert merged.observer is None


def test_what_a_killed_run_had_finished_does_not_take_its_room_twice(tmp_path: Path) -> None:
    SmallLlama(hidden=64, inner=96, layers=2).write(tmp_path / "base")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.safetensors").write_bytes(b"old")
    with MergedTensors(read_checkpoint(tmp_path / "base"), None) as merged:
        with CheckpointOutput(merged, Dtype.FLOAT32, tmp_path / "out") as files:
            assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.safetensors.partial"]
            files.finish()
        assert (tmp_path / "out" / "model.safetensors").stat().st_size > 1000


def test_a_block_that_is_read_and_not_shown_is_no_hole_in_the_file(tmp_path: Path) -> None:
    class Silent(MergedTensors):
        def rows(self, name: str, first: int, end: int) -> torch.Tensor:
            return self.read(self._entries[name], first, end)

    SmallLlama(hidden=64, inner=96, layers=2).write(tmp_path / "base")
    (tmp_path / "out").mkdir()
    with (
        Silent(read_checkpoint(tmp_path / "base"), None) as merged,
        pytest.raises(RuntimeError, match="not shown"),
        CheckpointOutput(merged, Dtype.FLOAT32, tmp_path / "out") as files,
    ):
        files.finish()
    assert not list((tmp_path / "out").iterdir())


def test_a_value_that_does_not_fit_stops_the_pass_and_leaves_nothing(tree: LlamaCppTree, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    SmallLlama(hidden=64, inner=96, layers=2).write(tmp_path / "base")
    tensors = load_file(tmp_path / "base" / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = 1e6
    save_file(tensors, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    kept = KeptCheckpoint(dtype=Dtype.FLOAT16, chat_template=None)
    (tmp_path / "out").mkdir()
    job = QuantizeJob(
        base=read_checkpoint(tmp_path / "base"), adapter=None, quants=(Quant.F32,), template=None, name="", file_stem="m",
        output=tmp_path / "out", tree=tree, keep_hf=kept,
    )  # fmt: skip
    with pytest.raises(InputInvalid, match=r"tensor model.layers.1.mlp.up_proj.weight has a value that F16 does not"):
        quantize(job)
    assert list((tmp_path / "out").rglob("*.*")) == []
