from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from packager.errors import InputInvalid, ToolMissing
from packager.formats.checkpoint import read_checkpoint
from packager.formats.gguf import GgmlType
from packager.sources.llama_cpp_tree import LlamaCppTree
from packager.weights.boxes import whole
from packager.weights.converter import Conversion
from packager.weights.converter_modules import converter_modules
from packager.weights.merged import MergedTensors


def test_the_trees_gguf_is_used_and_the_installed_one_stays(tree: LlamaCppTree) -> None:
    import gguf

    path, level = list(sys.path), logging.getLogger("hf-to-gguf").level
    with converter_modules(tree) as theirs:
        assert Path(theirs.__file__ or "").is_relative_to(tree.path)
        assert Path(sys.modules["conversion"].__file__ or "").is_relative_to(tree.path)
    assert sys.modules["gguf"] is gguf
    assert "conversion" not in sys.modules
    assert sys.path == path
    assert logging.getLogger("hf-to-gguf").level == level
    with converter_modules(tree) as again:
        assert again is theirs


def test_a_tree_that_cannot_be_imported_is_a_missing_tool(tmp_path: Path) -> None:
    (tmp_path / "conversion").mkdir()
    (tmp_path / "conversion/__init__.py").write_text("import surely_not_installed\n")
    with (
        pytest.raises(ToolMissing, match="surely_not_installed"),
        converter_modules(LlamaCppTree(path=tmp_path, version="")),
    ):
        pass


def test_renamed_tensors_stream_and_permuted_ones_are_computed(tiny: Callable[[str], Path], tree: LlamaCppTree) -> None:
    base = read_checkpoint(tiny("llama3.1"))
    with MergedTensors(base, None) as merged:
        conversion = Conversion(base, merged, tree)
        found = {tensor.name: tensor for tensor in conversion.tensors}
        assert found["token_embd.weight"].source == "model.embed_tokens.weight"
        assert found["blk.1.ffn_up.weight"].source == "model.layers.1.mlp.up_proj.weight"
        assert found["blk.0.attn_v.weight"].source == "model.layers.0.self_attn.v_proj.weight"
        permuted = found["blk.0.attn_q.weight"]
        assert permuted.source is None
        before = merged.whole("model.layers.0.self_attn.q_proj.weight")
        after = permuted.graph.read(whole(permuted.shape))
        assert not torch.equal(before, after)
        assert torch.equal(before.sort(dim=0).values, after.sort(dim=0).values)
        renamed = found["blk.0.attn_v.weight"]
        assert torch.equal(
            renamed.graph.read(whole(renamed.shape)), merged.whole("model.layers.0.self_attn.v_proj.weight")
        )
    assert found["blk.0.attn_norm.weight"].f16_type is GgmlType.F32
    assert found["token_embd.weight"].f16_type is GgmlType.F16
    assert {tensor.f32_type for tensor in found.values()} == {GgmlType.F32}
    facts = conversion.facts
    assert (facts.architecture, facts.embedding, facts.layers, facts.heads, facts.heads_kv) == ("llama", 64, 2, 4, 2)


def test_a_name_is_the_callers_or_the_checkpoints_and_never_the_folders(
    tiny: Callable[[str], Path], tree: LlamaCppTree, tmp_path: Path
) -> None:
    folder = tmp_path / "Folder-Name-7B-Chat-v3"
    shutil.copytree(tiny("qwen3"), folder)
    base = read_checkpoint(folder)
    with MergedTensors(base, None) as merged:
        named = Conversion(base, merged, tree).metadata("Mine")
        unnamed = Conversion(base, merged, tree).metadata("")
        assert {entry.key: entry.value for entry in named}["general.name"] == "Mine"
        assert {entry.key: entry.value for entry in unnamed}["general.name"] == "Qwen3ForCausalLM"
        texts = [entry.value for entry in (*named, *unnamed) if isinstance(entry.value, str)]
        assert not any("Folder" in text for text in texts)
        (folder / "README.md").write_text("---\nmodel_name: From The Card\nlicense: mit\n---\n")
        carded = {entry.key: entry.value for entry in Conversion(base, merged, tree).metadata("")}
    assert carded["general.name"] == "From The Card"
    assert carded["general.license"] == "mit"


def test_a_tokenizer_the_converter_cannot_read_is_an_input_error(
    tiny: Callable[[str], Path], tree: LlamaCppTree, tmp_path: Path
) -> None:
    shutil.copytree(tiny("qwen2.5"), tmp_path / "base")
    (tmp_path / "base/tokenizer.json").write_text("{}")
    base = read_checkpoint(tmp_path / "base")
    with MergedTensors(base, None) as merged:
        conversion = Conversion(base, merged, tree)
        with pytest.raises(InputInvalid, match="the tokenizer cannot be read"):
            conversion.metadata("")
