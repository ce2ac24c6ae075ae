from __future__ import annotations

from pathlib import Path

import pytest

from packager.artifacts import TensorEntry
from packager.formats.adapter_targets import checkpoint_module, is_transposed, weight_of

# The key under which transformers keeps what it renames, and a module of a checkpoint that it renames.
RENAMED = {
    "gpt-neox": ("GPTNeoXForCausalLM", "embed_out"),
    "mixtral": ("mixtral", "model.layers.1.block_sparse_moe.gate"),
    "minimax-m2": ("minimax_m2", "model.layers.1.block_sparse_moe.gate"),
    "phi3.5-moe": ("phimoe", "model.layers.1.block_sparse_moe.gate"),
    "granite-moe": ("granitemoe", "model.layers.1.block_sparse_moe.router.layer"),
    "hunyuan3-router": ("hy_v3", "model.layers.1.mlp.router.gate"),
    "hunyuan3-shared": ("hy_v3", "model.layers.1.mlp.shared_mlp.up_proj"),
    "laguna": ("laguna", "model.layers.1.mlp.shared_expert.up_proj"),
    "kimi-linear": ("kimi_linear", "model.layers.1.self_attn.f_a_proj"),
    "nemotron-h": ("nemotron_h", "backbone.layers.1.mixer.in_proj"),
    "gemma3n-text": ("gemma3n_text", "model.language_model.layers.1.mlp.up_proj"),
}


@pytest.mark.parametrize("case", RENAMED)
def test_what_transformers_renames_on_loading_is_found_by_its_new_name(case: str) -> None:
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping
    from transformers.core_model_loading import WeightConverter, rename_source_key

    key, stored = RENAMED[case]
    mapping = get_checkpoint_conversion_mapping(key)
    renamings = [entry for entry in mapping if not isinstance(entry, WeightConverter)]
    loaded, _ = rename_source_key(f"{stored}.weight", renamings, [])
    assert loaded != f"{stored}.weight"
    names = {f"{stored}.weight", "model.embed_tokens.weight"}
    assert checkpoint_module(loaded.removesuffix(".weight"), names) == stored


def test_a_gemma_that_also_sees(tmp_path: Path) -> None:
    """transformers holds its language model elsewhere than the checkpoint does, also for versions before 4.52."""
    import torch
    from safetensors.torch import load_file
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3TextConfig, SiglipVisionConfig

    text = Gemma3TextConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1,
        head_dim=16, vocab_size=32,
    )  # fmt: skip
    vision = SiglipVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, image_size=28, patch_size=14
    )
    model = Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4))
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    found = {name: checkpoint_module(name, stored.keys()) for name in linear if ".language_model." in name}
    assert found["model.language_model.layers.0.mlp.up_proj"] == "language_model.model.layers.0.mlp.up_proj"
    for name, there in found.items():
        assert torch.equal(stored[f"{there}.weight"], model.get_submodule(name).weight), name
    newer = {name.replace("language_model.model.", "model.language_model.") for name in stored}
    assert checkpoint_module("language_model.model.norm", newer) == "model.language_model.norm"


def test_a_module_keeps_its_name_where_the_checkpoint_has_it() -> None:
    names = {"lm_head.weight", "embed_out.weight"}
    assert checkpoint_module("lm_head", names) == "lm_head"
    assert checkpoint_module("embed_out", names) == "embed_out"


def test_a_module_without_a_tensor_keeps_its_name_and_has_none() -> None:
    entry = TensorEntry(name="x.weight", dtype="F32", shape=(1, 1), file=Path("f"), offset=0, size_bytes=4)
    assert checkpoint_module("lm_head", {"x.weight"}) == "lm_head"
    assert weight_of("lm_head", {"x.weight": entry}) is None
    assert weight_of("x", {"x.weight": entry}) is entry


def test_only_layers_of_conv1d_are_transposed() -> None:
    assert is_transposed("transformer.h.0.attn.c_attn", "GPT2LMHeadModel")
    assert not is_transposed("lm_head", "GPT2LMHeadModel")
    assert not is_transposed("transformer.h.0.attn.c_attn", "GPTBigCodeForCausalLM")
