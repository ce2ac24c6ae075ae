"""peft decides what an adapter does: scales, merged weights and the adapters themselves come from it."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import load_file, save_file

from packager.artifacts import Adapter, Checkpoint
from packager.codec import decode, encode
from packager.errors import InputInvalid, PackagerError, UnsafeInput, Unsupported
from packager.events import silent
from packager.formats.adapter import read_adapter, read_adapters
from packager.formats.checkpoint import read_checkpoint
from packager.single_stages import merge
from packager.weights.merged import MergedTensors
from tests.formats.tiny_folders import (
    HIDDEN,
    Q_PROJ,
    VOCAB,
    edit_json,
    lora,
    values,
    write_adapter,
    write_base,
)
from tests.peft_adapters import load, save_llama, train
from tests.weights.made_checkpoints import pairs


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real Llama of two layers, 16 wide, with an output layer of its own."""
    return save_llama(tmp_path_factory.mktemp("llama") / "base", tied=False)


def merged(base: Checkpoint, adapter: Adapter) -> dict[str, torch.Tensor]:
    with MergedTensors(base, adapter) as tensors:
        return {entry.name: tensors.whole(entry.name) for entry in tensors.entries}


CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
    "all-linear": {"r": 2, "lora_alpha": 3, "target_modules": "all-linear"},
    "rslora": {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "use_rslora": True},
    "output-layer": {"r": 4, "lora_alpha": 8, "target_modules": ["lm_head", "q_proj"]},
    "fan-in-fan-out-on-linear": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "fan_in_fan_out": True},
    "alpha-pattern": {
        "r": 4, "lora_alpha": 8, "target_modules": "all-linear",
        "alpha_pattern": {"q_proj": 5, "layers.1.mlp.down_proj": 7},
    },
    "rank-pattern": {
        "r": 4, "lora_alpha": 8, "target_modules": "all-linear",
        "rank_pattern": {"mlp.up_proj": 2, r"model.layers.\d.self_attn.(k|v)_proj": 3},
        "alpha_pattern": {"k_proj": 16},
    },
    "rank-pattern-rslora": {
        "r": 4, "lora_alpha": 8, "target_modules": "all-linear", "use_rslora": True,
        "rank_pattern": {"^model.layers.0.*q_proj": 9, "q_proj": 3},
    },
    "first-pattern-wins": {  # of the file, whose keys peft sorts when it saves
        "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"],
        "alpha_pattern": {"layers.0.self_attn.q_proj": 1, "q_proj": 2, "model.layers.1.self_attn.q_proj": 3},
    },
    "pattern-not-a-suffix": {
        "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "alpha_pattern": {"_proj": 1, "self_attn": 2},
    },
    "one-layer": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "layers_to_transform": [1]},
    "gaussian-start": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]},
}  # fmt: skip


@pytest.mark.parametrize("case", CONFIGS)
def test_scales_and_merged_weights_are_those_of_peft(case: str, llama: Path, tmp_path: Path) -> None:
    folder = train(llama, tmp_path / "adapter", **CONFIGS[case])
    model = load(llama, folder)
    base = read_checkpoint(llama)
    adapter = read_adapter(folder, base)
    assert decode(Adapter, encode(adapter)) == adapter
    assert [pair.target for pair in pairs(adapter)] == sorted(adapter.targets)
    scales = {
        f"{name.removeprefix('base_model.model.')}.weight": module.scaling["default"]
        for name, module in model.named_modules()
        if isinstance(getattr(module, "scaling", None), dict)  # attention has a number of that name
    }
    assert {pair.target: pair.scale for pair in pairs(adapter)} == pytest.approx(scales, rel=1e-12)
    expected = model.merge_and_unload().state_dict()
    for name, weight in merged(base, adapter).items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-6, atol=1e-7, msg=name)


def test_conv1d_of_gpt2_is_transposed_as_peft_does(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=32, n_embd=16, n_layer=1, n_head=2, n_positions=16, n_inner=16, bos_token_id=0, eos_token_id=0
    )
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    targets = ["c_attn", "c_proj", "c_fc"]  # c_proj and c_fc are square here: only the class tells the orientation
    folder = train(
        tmp_path / "base", tmp_path / "adapter", r=2, lora_alpha=4, target_modules=targets, fan_in_fan_out=True
    )
    base = read_checkpoint(tmp_path / "base")
    adapter = read_adapter(folder, base)
    assert all(pair.transposed for pair in pairs(adapter))
    expected = load(tmp_path / "base", folder).merge_and_unload().state_dict()
    for name, weight in merged(base, adapter).items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-6, atol=1e-7, msg=name)


def test_a_bfloat16_output_layer_may_be_copied_in_float32(tmp_path: Path) -> None:
    base = save_llama(tmp_path / "base", tied=False, dtype=torch.bfloat16)
    folder = train(base, tmp_path / "adapter", target_modules=["lm_head"])
    assert "base_model.model.lm_head.base_layer.weight" in load_file(folder / "adapter_model.safetensors")
    assert [update.target for update in read_adapter(folder, read_checkpoint(base)).updates] == ["lm_head.weight"]


def test_a_copied_output_layer_of_another_base_is_refused(llama: Path, tmp_path: Path) -> None:
    folder = train(llama, tmp_path / "adapter", target_modules=["lm_head"])
    weights = load_file(folder / "adapter_model.safetensors")
    weights["base_model.model.lm_head.base_layer.weight"][5, 5] += 1e-3
    save_file(weights, folder / "adapter_model.safetensors")
    with pytest.raises(InputInvalid, match=r"lm_head\.base_layer\.weight' differs from lm_head\.weight"):
        read_adapter(folder, read_checkpoint(llama))


OTHER_KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "replicated": ({"target_modules": ["q_proj"], "layer_replication": [(0, 2), (0, 2)]}, "layer_replication"),
}


@pytest.mark.parametrize("case", OTHER_KINDS)
def test_what_peft_saves_of_other_kinds_is_refused_by_name(case: str, llama: Path, tmp_path: Path) -> None:
    config, name = OTHER_KINDS[case]
    folder = train(llama, tmp_path / "adapter", **config)
    with pytest.raises(Unsupported, match=name) as caught:
        read_adapter(folder, read_checkpoint(llama))
    assert caught.value.hint


@pytest.mark.parametrize("kind", ["LoHaConfig", "LoKrConfig", "IA3Config", "VeraConfig", "PromptTuningConfig"])
def test_other_methods_of_peft_are_refused_by_name(kind: str, llama: Path, tmp_path: Path) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    extra: dict[str, Any] = (
        {"num_virtual_tokens": 2} if kind == "PromptTuningConfig" else {"target_modules": ["o_proj"]}
    )
    if kind == "IA3Config":
        extra["feedforward_modules"] = []
    config = getattr(peft, kind)(task_type="CAUSAL_LM", **extra)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft.get_peft_model(AutoModelForCausalLM.from_pretrained(llama), config).save_pretrained(tmp_path)
    name = {"IA3Config": "(IA)3", "PromptTuningConfig": "prompt tuning"}.get(kind, kind.removesuffix("Config"))
    with pytest.raises(Unsupported) as caught:
        read_adapter(tmp_path, read_checkpoint(llama))
    assert name.lower() in caught.value.message.lower()


MISSING: dict[str, tuple[dict[str, Any], str, str]] = {
    "layer": ({}, "layers.1.self_attn.q_proj.lora_", "has no lora_A and lora_B for model.layers.1.self_attn.q_proj, which"),
    "module": ({"modules_to_save": ["norm"]}, "model.norm.weight", "has no model.norm.weight, which"),
    "layer-of-a-module": (
        {"modules_to_save": ["mlp"]}, "layers.0.mlp.up_proj.weight", "has no model.layers.0.mlp.up_proj.weight, which",
    ),
    "tokens": (
        {"trainable_token_indices": {"embed_tokens": [1], "lm_head": [2]}},
        "lm_head.token_adapter",
        "has no lm_head.trainable_tokens_delta, which",
    ),
    "magnitude": ({"use_dora": True}, "layers.1.self_attn.q_proj.lora_mag", "has no lora_magnitude_vector for model.layers.1"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISSING)
def test_what_the_configuration_names_and_the_file_lacks_is_refused(case: str, llama: Path, tmp_path: Path) -> None:
    config, dropped, words = MISSING[case]
    folder = train(llama, tmp_path / "adapter", r=2, target_modules=["q_proj"], **config)
    base = read_checkpoint(llama)
    assert read_adapter(folder, base).updates
    weights = load_file(folder / "adapter_model.safetensors")
    kept = {name: value for name, value in weights.items() if dropped not in name}
    assert len(kept) < len(weights)
    save_file(kept, folder / "adapter_model.safetensors")
    with pytest.raises(InputInvalid, match=re.escape(words)):
        read_adapter(folder, base)


def test_a_missing_bias_is_refused(tmp_path: Path) -> None:
    base = save_llama(tmp_path / "base", tied=False, biased=True)
    for bias, name in (("all", "self_attn.o_proj.bias"), ("lora_only", "self_attn.q_proj.base_layer.bias")):
        folder = train(base, tmp_path / bias, r=2, target_modules=["q_proj"], bias=bias)
        weights = load_file(folder / "adapter_model.safetensors")
        del weights[f"base_model.model.model.layers.1.{name}"]
        save_file(weights, folder / "adapter_model.safetensors")
        bare = name.replace("base_layer.", "")
        with pytest.raises(InputInvalid, match=rf"has no model\.layers\.1\.{re.escape(bare)}, which"):
            read_adapter(folder, read_checkpoint(base))


def test_kept_ties_are_the_last_adapters_only_and_without_dora(tmp_path: Path) -> None:
    base = save_llama(tmp_path / "base", tied=True)
    tied = {"r": 2, "target_modules": ["embed_tokens"], "ensure_weight_tying": True}
    kept = train(base, tmp_path / "kept", **tied)
    with pytest.raises(Unsupported, match="peft merges that into both ends"):
        read_adapters((kept, kept), read_checkpoint(base))
    edit_json(kept / "adapter_config.json", use_dora=True)
    weights = load_file(kept / "adapter_model.safetensors")
    module = "base_model.model.model.embed_tokens.lora_magnitude_vector"
    head = "base_model.model.lm_head.lora_magnitude_vector"
    save_file({**weights, module: torch.ones(16), head: torch.ones(32)}, kept / "adapter_model.safetensors")
    with pytest.raises(Unsupported, match="DoRA on embeddings that ensure_weight_tying keeps tied"):
        read_adapter(kept, read_checkpoint(base))


# --- by hand -----------------------------------------------------------------------------------------------------------


def test_an_adapter_is_read_whole(tmp_path: Path) -> None:
    base = read_checkpoint(write_base(tmp_path / "base"))
    folder = write_adapter(tmp_path / "Packy-LoRA")
    (folder / "chat_template.jinja").write_text("mine")
    adapter = read_adapter(folder, base)
    assert (adapter.name, adapter.base_name, adapter.chat_template) == ("Packy-LoRA", "someone/base", "mine")
    [pair] = pairs(adapter)
    assert pair.target == "model.layers.0.self_attn.q_proj.weight"
    assert (pair.a.shape, pair.b.shape, pair.scale, pair.transposed) == ((2, HIDDEN), (HIDDEN, 2), 3.0, False)


def test_the_name_of_the_default_adapter_may_be_in_the_keys(tmp_path: Path) -> None:
    base = read_checkpoint(write_base(tmp_path / "base"))
    tensors = {name.replace(".weight", ".default.weight"): value for name, value in lora().items()}
    assert len(read_adapter(write_adapter(tmp_path / "a", tensors=tensors), base).updates) == 1


def test_no_recorded_base_is_none(tmp_path: Path) -> None:
    base = read_checkpoint(write_base(tmp_path / "base"))
    assert read_adapter(write_adapter(tmp_path / "a", base_model_name_or_path=None), base).base_name is None
    assert read_adapter(write_adapter(tmp_path / "b", base_model_name_or_path=""), base).base_name is None


def _with(**changes: Any) -> Callable[[Path], object]:
    return lambda folder: write_adapter(folder, **changes)


def _tensors(extra: dict[str, Any] | None = None, *, base: dict[str, Any] | None = None) -> Callable[[Path], object]:
    return lambda folder: write_adapter(folder, tensors={**(lora() if base is None else base), **(extra or {})})


def _both(extra: dict[str, Any], **changes: Any) -> Callable[[Path], object]:
    return lambda folder: write_adapter(folder, tensors={**lora(), **extra}, **changes)


def _bin(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


DOWN = "base_model.model.model.layers.0.mlp.down_proj"
NORM = "base_model.model.model.norm"
EMBED = "base_model.model.model.embed_tokens"
TOKENS = "token_adapter.trainable_tokens_delta"
REFUSED: dict[str, tuple[Callable[[Path], object], type[PackagerError], str]] = {
    "pickle": (_bin, UnsafeInput, "adapter_model.bin is a pickle"),
    "no-weights": (lambda folder: (folder / "adapter_model.safetensors").unlink(), InputInvalid, "no adapter_model"),
    "no-tensors": (_tensors(base={}), InputInvalid, "holds no LoRA tensor"),
    "auto-map": (_with(auto_map={"AutoModel": "x.Y"}), UnsafeInput, "auto_map"),
    "no-kind": (_with(peft_type=None), InputInvalid, "no peft_type"),
    "unknown-kind": (_with(peft_type="SOMETHING_NEW"), Unsupported, "SOMETHING_NEW"),
    "unknown-switch": (_with(use_newlora=True), Unsupported, "use_newlora"),
    "qalora": (_with(use_qalora=True), Unsupported, "QALoRA"),
    "pissa": (_with(init_lora_weights="pissa_niter_4"), Unsupported, "pissa_niter_4"),
    "olora": (_with(init_lora_weights="olora"), Unsupported, "olora"),
    "no-rank": (_with(r=None), InputInvalid, "r is None, expected a positive whole number"),
    "rank-zero": (_with(r=0), InputInvalid, "r is 0"),
    "rank-text": (_with(r="2"), InputInvalid, "r is '2'"),
    "no-alpha": (_with(lora_alpha=None), InputInvalid, "lora_alpha is None"),
    "alpha-nan": (_with(lora_alpha=float("nan")), InputInvalid, "lora_alpha is nan"),
    "rank-of-another": (_with(r=8), InputInvalid, "says rank 8 for model.layers.0.self_attn.q_proj, lora_A has 2"),
    "pattern-rank": (_with(rank_pattern={"q_proj": 3}), InputInvalid, "says rank 3"),
    "pattern-broken": (_with(rank_pattern={"q_proj(": 3}), InputInvalid, "'q_proj(' is no regular expression"),
    "pattern-text": (_with(alpha_pattern={"q_proj": "3"}), InputInvalid, "alpha_pattern.q_proj is '3'"),
    "pattern-zero": (_with(rank_pattern={"q_proj": 0}), InputInvalid, "no positive number"),
    "pattern-list": (_with(rank_pattern=[1]), InputInvalid, "rank_pattern is [1]"),
    "pattern-exponential": (_with(rank_pattern={"(a+)+x": 2}), InputInvalid, "too complex"),
    "pattern-polynomial": (_with(alpha_pattern={".*.*.*.*x": 2}), InputInvalid, "too complex"),
    "a-without-b": (
        _tensors({f"{DOWN}.lora_A.weight": values(2, 12)}),
        InputInvalid,
        "has lora_A but no lora_B for model.layers.0.mlp.down_proj",
    ),
    "b-without-a": (
        _tensors({f"{DOWN}.lora_B.weight": values(HIDDEN, 2)}),
        InputInvalid,
        "has lora_B but no lora_A for model.layers.0.mlp.down_proj",
    ),
    "matches-nothing": (
        _tensors(lora("base_model.model.model.layers.7.self_attn.q_proj")),
        InputInvalid,
        "layers.7.self_attn.q_proj.lora_A.weight' matches no tensor of",
    ),
    "same-target-twice": (
        _tensors({f"{Q_PROJ}.lora_A.default.weight": values(2, HIDDEN)}),
        InputInvalid,
        "change the same tensor",
    ),
    "another-width": (
        _tensors(base=lora(inputs=12)),
        InputInvalid,
        "model.layers.0.self_attn.q_proj.lora_A takes 12 inputs, model.layers.0.self_attn.q_proj.weight of",
    ),
    "another-height": (_tensors(base=lora(outputs=9)), InputInvalid, "lora_B gives 9 outputs"),
    "vector": (_tensors(lora(NORM)), Unsupported, "model.norm.weight"),
    "convolution": (
        _tensors({f"{Q_PROJ}.lora_A.weight": values(2, HIDDEN, 1, 1)}),
        Unsupported,
        "a convolution or a stack of matrices",
    ),
    "integers": (_tensors({f"{Q_PROJ}.lora_A.weight": numpy.ones((2, HIDDEN), dtype=numpy.int8)}), Unsupported, "I8"),
    "embedding-without-b": (
        _tensors({f"{EMBED}.lora_embedding_A": values(2, VOCAB)}),
        InputInvalid,
        "has lora_embedding_A but no lora_embedding_B",
    ),
    "magnitude-unsaid": (
        _tensors({f"{Q_PROJ}.lora_magnitude_vector": values(8)}),
        InputInvalid,
        "adapter_config.json does not say use_dora",
    ),
    "magnitude-missing": (
        _with(use_dora=True),
        InputInvalid,
        "has no lora_magnitude_vector for model.layers.0.self_attn.q_proj",
    ),
    "magnitude-alone": (
        _both(
            {f"{DOWN}.lora_magnitude_vector": values(8), f"{Q_PROJ}.lora_magnitude_vector": values(8)}, use_dora=True
        ),
        InputInvalid,
        "there is no lora_A beside it",
    ),
    "magnitude-of-another-size": (
        _both({f"{Q_PROJ}.lora_magnitude_vector": values(9)}, use_dora=True),
        InputInvalid,
        "has 9 values, model.layers.0",
    ),
    "dora-and-lora-bias": (_with(use_dora=True, lora_bias=True), Unsupported, "use_dora and lora_bias together"),
    "bias-without-a-bias": (
        _tensors({f"{Q_PROJ}.base_layer.bias": values(8)}),
        InputInvalid,
        "is added to a bias, and model.layers.0.self_attn.q_proj",
    ),
    "lora-bias-without-a-bias": (
        _both({f"{Q_PROJ}.lora_B.bias": values(8)}, lora_bias=True),
        InputInvalid,
        "is added to a bias, and model.layers.0",
    ),
    "lora-bias-missing": (_with(lora_bias=True), InputInvalid, "has lora_B but no lora_B.bias for model.layers.0"),
    "lora-bias-unsaid": (_tensors({f"{Q_PROJ}.lora_B.bias": values(8)}), InputInvalid, "does not say lora_bias"),
    "bias-word": (_with(bias="some"), InputInvalid, "bias is 'some', expected none, all or lora_only"),
    "module-of-another-size": (
        _tensors({f"{NORM}.weight": values(9)}),
        InputInvalid,
        "norm.weight' is 9, model.norm.weight of",
    ),
    "module-missing": (
        _with(modules_to_save=["norm"]),
        InputInvalid,
        "has no model.norm.weight, which adapter_config.json",
    ),
    "module-twice": (
        _tensors({f"{NORM}.weight": values(8), f"{NORM}.modules_to_save.weight": values(8) + 1}),
        InputInvalid,
        "norm.modules_to_save.weight' differs from model.norm.weight beside it",
    ),
    "module-before-alone": (
        _tensors({f"{NORM}.original_module.weight": values(8)}),
        InputInvalid,
        "has no model.norm.weight beside it",
    ),
    "module-and-lora": (
        _tensors({f"{Q_PROJ}.weight": values(8, 8)}),
        InputInvalid,
        "has lora_A and a whole weight for model.layers.0.self_attn",
    ),
    "tokens-missing": (_with(trainable_token_indices=[1]), InputInvalid, "has no embedding.trainable_tokens_delta"),
    "tokens-of-another-number": (
        _both({f"{EMBED}.{TOKENS}": values(3, HIDDEN)}, trainable_token_indices=[1, 2]),
        InputInvalid,
        "names 2 tokens",
    ),
    "tokens-unsaid": (_tensors({f"{EMBED}.{TOKENS}": values(3, HIDDEN)}), InputInvalid, "names 0 tokens"),
    "tokens-beyond-the-vocabulary": (
        _both({f"{EMBED}.{TOKENS}": values(1, HIDDEN)}, trainable_token_indices=[VOCAB]),
        InputInvalid,
        "has 16 rows",
    ),
    "tokens-twice": (_with(trainable_token_indices=[1, 1]), InputInvalid, "names token 1 twice"),
    "tokens-words": (_with(trainable_token_indices=["a"]), InputInvalid, "trainable_token_indices is ['a']"),
    "one-end-resized": (
        _tensors({f"{EMBED}.weight": values(VOCAB + 4, HIDDEN)}),
        InputInvalid,
        "gives model.embed_tokens.weight 20 rows and lm_head.weight 16",
    ),
    "loha-tensor": (_tensors({f"{Q_PROJ}.hada_w1_a": values(8)}), Unsupported, "LoHa"),
    "unknown-tensor": (_tensors({"something.else": values(8)}), InputInvalid, "'something.else' is no part of a LoRA"),
    "other-prefix": (
        _tensors({"model.layers.0.self_attn.q_proj.lora_A.weight": values(2, HIDDEN)}),
        InputInvalid,
        "is no part of a LoRA",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    spoil, kind, words = REFUSED[case]
    base = read_checkpoint(write_base(tmp_path / "base"))
    folder = write_adapter(tmp_path / "adapter")
    spoil(folder)
    with pytest.raises(kind) as caught:
        read_adapter(folder, base)
    assert caught.value.exit_code == kind.exit_code
    assert words in caught.value.message
    assert str(folder) in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint
    with pytest.raises(kind):
        merge(base.folder, (folder,), tmp_path / "out", dtype=None, template_file=None, emit=silent)
    assert not (tmp_path / "out").exists(), "nothing was written"


def test_the_base_it_was_trained_on_is_named(tmp_path: Path) -> None:
    base = read_checkpoint(write_base(tmp_path / "base7b"))
    folder = write_adapter(tmp_path / "a", tensors=lora(inputs=12), base_model_name_or_path="Qwen/Qwen2.5-7B")
    with pytest.raises(InputInvalid) as caught:
        read_adapter(folder, base)
    assert caught.value.message.endswith(f"of {base.folder} has {HIDDEN}")
    assert "it recorded Qwen/Qwen2.5-7B, not base7b" in caught.value.hint


def test_a_trainer_folder_names_its_newest_checkpoint(tmp_path: Path) -> None:
    base = read_checkpoint(write_base(tmp_path / "base"))
    for step in (90, 100, 20):
        write_adapter(tmp_path / "out" / f"checkpoint-{step}")
    (tmp_path / "out" / "checkpoint-500").mkdir()  # saved nothing
    with pytest.raises(InputInvalid, match=r"no adapter_config\.json") as caught:
        read_adapter(tmp_path / "out", base)
    assert caught.value.hint.endswith(str(tmp_path / "out" / "checkpoint-100"))


def test_a_base_given_as_adapter_and_missing_folders(tmp_path: Path) -> None:
    base = read_checkpoint(write_base(tmp_path / "base"))
    with pytest.raises(InputInvalid) as caught:
        read_adapter(base.folder, base)
    assert "This is a base" in caught.value.hint
    with pytest.raises(InputInvalid, match="no such folder"):
        read_adapter(tmp_path / "absent", base)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputInvalid, match=r"no adapter_config\.json"):
        read_adapter(tmp_path / "empty", base)


def test_every_tensor_of_the_real_adapter_is_used_once(smollm2: Path, smollm2_lora: Path) -> None:
    adapter = read_adapter(smollm2_lora, read_checkpoint(smollm2))
    used = [entry.name for entry in adapter.tensors]
    assert sorted(used) == sorted(load_file(smollm2_lora / "adapter_model.safetensors"))
    recorded = json.loads((smollm2_lora / "adapter_config.json").read_text())
    assert {pair.scale for pair in pairs(adapter)} == {recorded["lora_alpha"] / recorded["r"]}
