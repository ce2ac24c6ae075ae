"""Every kind of adapter against peft itself: the merged weights, and what they answer beside base and adapter unmerged."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from packager.artifacts import Adapter, Checkpoint
from packager.codec import decode, encode
from packager.engines.transformers import Reference
from packager.errors import InputInvalid
from packager.formats.adapter import read_adapter, read_adapters
from packager.formats.checkpoint import read_checkpoint
from packager.formats.fine_tuned import changed_config, fine_tuned
from packager.formats.json_file import read_object
from packager.weights import merged as module
from packager.weights.merge_proof import merged_logprobs
from packager.weights.merged import MergedTensors
from tests.peft_adapters import VOCAB, load, save_llama, train
from tests.weights.made_checkpoints import adapter as made_adapter
from tests.weights.made_checkpoints import checkpoint, entries, pairs

IDS = (1, 5, 30, 2, 7)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A base, how its adapter was trained, and whether tied embeddings are untied by it."""

    config: dict[str, Any]
    tied: bool = False
    vocab_size: int | None = None
    unties: bool = False
    targets: set[str] = field(default_factory=set)


Q = {"r": 2, "lora_alpha": 3}
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
KINDS = {
    "dora": Kind(config={"target_modules": "all-linear", "use_dora": True}),
    "dora-rslora": Kind(config={"target_modules": "all-linear", "use_dora": True, "use_rslora": True}),
    "embedding": Kind(config={"target_modules": ["embed_tokens", "q_proj"]}, targets={EMBED}),
    "embedding-dora": Kind(config={"target_modules": ["embed_tokens", "q_proj"], "use_dora": True}, targets={EMBED}),
    "modules-to-save": Kind(
        config={"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head", "norm"]},
        targets={EMBED, HEAD, "model.norm.weight", "model.layers.1.input_layernorm.weight"},
    ),
    "saved-mlp": Kind(
        config={"target_modules": ["q_proj"], "modules_to_save": ["layers.1.mlp"]},
        targets={"model.layers.1.mlp.up_proj.weight"},
    ),
    "tokens": Kind(config={"target_modules": ["q_proj"], "trainable_token_indices": [7, 1]}, targets={EMBED}),
    "tokens-of-both": Kind(
        config={"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [1, 30], "lm_head": [2]}},
        targets={EMBED, HEAD},
    ),
    "bias-all": Kind(
        config={"target_modules": ["q_proj"], "bias": "all"}, targets={"model.layers.0.self_attn.o_proj.bias"}
    ),
    "bias-lora-only": Kind(
        config={"target_modules": ["q_proj"], "bias": "lora_only"}, targets={"model.layers.0.self_attn.q_proj.bias"}
    ),
    "lora-bias": Kind(
        config={"target_modules": ["q_proj"], "lora_bias": True, "use_rslora": True},
        targets={"model.layers.0.self_attn.q_proj.bias"},
    ),
    "tied-untouched": Kind(config={"target_modules": ["q_proj"]}, tied=True),
    "tied-embedding": Kind(config={"target_modules": ["embed_tokens", "q_proj"]}, tied=True, unties=True),
    "tied-embedding-dora": Kind(config={"target_modules": ["embed_tokens"], "use_dora": True}, tied=True, unties=True),
    "tied-output": Kind(config={"target_modules": ["lm_head", "q_proj"]}, tied=True, unties=True),
    "tied-both": Kind(config={"target_modules": ["lm_head", "embed_tokens"]}, tied=True, unties=True),
    "tied-kept": Kind(config={"target_modules": ["embed_tokens"], "ensure_weight_tying": True}, tied=True),
    "tied-saved-embedding": Kind(
        config={"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}, tied=True, unties=True
    ),
    "tied-saved-output": Kind(
        config={"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, tied=True, unties=True
    ),
    "tied-saved-both": Kind(
        config={"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}, tied=True, unties=True
    ),
    "tied-saved-kept": Kind(
        config={"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, tied=True
    ),
    "tied-tokens": Kind(config={"target_modules": ["q_proj"], "trainable_token_indices": [1, 30]}, tied=True),
    "tied-tokens-of-both": Kind(
        config={"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [1, 3], "lm_head": [1, 3]}},
        tied=True,
    ),
    "tied-tokens-apart": Kind(
        config={"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [1, 3], "lm_head": [30]}},
        tied=True,
        unties=True,
    ),
    "resized": Kind(config={"target_modules": ["q_proj"]}, vocab_size=40, targets={EMBED, HEAD}),
    "resized-smaller": Kind(config={"target_modules": ["q_proj"]}, vocab_size=31, targets={EMBED, HEAD}),
    "resized-tied": Kind(config={"target_modules": ["q_proj"]}, vocab_size=40, tied=True, targets={EMBED}),
    "resized-saved": Kind(
        config={"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}, vocab_size=40
    ),
    "resized-tied-saved": Kind(
        config={"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
        vocab_size=40,
        tied=True,
        unties=True,
    ),
    "resized-tied-saved-embedding": Kind(
        config={"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}, vocab_size=40, tied=True, unties=True
    ),
    "resized-tied-embedding": Kind(
        config={"target_modules": ["q_proj", "embed_tokens"]}, vocab_size=40, tied=True, unties=True
    ),
    "resized-tied-output": Kind(
        config={"target_modules": ["q_proj", "lm_head"]}, vocab_size=40, tied=True, unties=True
    ),
    "resized-tokens": Kind(
        config={"target_modules": ["q_proj"], "trainable_token_indices": [33, 39]}, vocab_size=40, targets={EMBED, HEAD}
    ),
    "resized-tied-tokens": Kind(
        config={"target_modules": ["q_proj"], "trainable_token_indices": [33, 39]}, vocab_size=40, tied=True
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def llamas(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Path]:
    """A Llama with biases, tied or not."""
    folder = tmp_path_factory.mktemp("llamas")
    made = {tied: save_llama(folder / f"tied-{tied}", tied=tied, biased=True) for tied in (True, False)}
    return made.__getitem__


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of three rows, so that a small tensor has many."""
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", 48)


def logprobs(model: Any) -> np.ndarray[Any, Any]:
    with torch.inference_mode():
        found: np.ndarray[Any, Any] = torch.log_softmax(model(torch.tensor([IDS])).logits[0], dim=-1).numpy()
    return found


def tensors_of(base: Checkpoint, adapter: Adapter) -> dict[str, torch.Tensor]:
    with MergedTensors(base, adapter) as merged:
        return {entry.name: merged.whole(entry.name) for entry in merged.entries}


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Relative to the tensor's largest value: sums of float32 in another order differ in the last bit of their terms."""
    for name, weight in found.items():
        assert weight.dtype is torch.float32
        assert weight.shape == expected[name].shape, name
        assert float((weight - expected[name]).abs().max()) <= 1e-6 * float(expected[name].abs().max()), name


def as_a_model(base: Checkpoint, adapter: Adapter) -> Any:
    """The merged checkpoint under transformers, with the configuration that it gets."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = changed_config(read_object(base.folder / "config.json").values, base, adapter)
    model = LlamaForCausalLM(LlamaConfig(**config)).eval()
    missing, unexpected = model.load_state_dict(tensors_of(base, adapter), strict=False)
    assert not unexpected
    assert set(missing) <= ({HEAD} if fine_tuned(base, adapter).ties_embeddings else set())
    return model


def assert_accounted_for(folder: Path, adapter: Adapter, tied: bool) -> None:
    """Tensors that no update reads are copies that peft saves beside them, or those of an end that stays tied."""
    unread = set(load_file(folder / "adapter_model.safetensors")) - {entry.name for entry in adapter.tensors}
    copies = ("base_layer.weight", "modules_to_save.weight", "original_module.weight")
    assert all(name.endswith(copies) or (tied and name.startswith("base_model.model.lm_head.")) for name in unread), (
        unread
    )


@pytest.mark.parametrize("case", KINDS)
def test_a_kind_is_merged_as_peft_merges_it(case: str, llamas: Callable[[bool], Path], tmp_path: Path) -> None:
    kind = KINDS[case]
    base = read_checkpoint(llamas(kind.tied))
    folder = train(base.folder, tmp_path / "lora", vocab_size=kind.vocab_size, **Q, **kind.config)
    adapter = read_adapter(folder, base)
    assert decode(Adapter, encode(adapter)) == adapter
    assert kind.targets <= adapter.targets
    assert [step.unties for step in adapter.steps] == [kind.unties]
    assert_accounted_for(folder, adapter, kind.tied and not kind.unties)
    after = fine_tuned(base, adapter)
    assert (after.ties_embeddings, after.vocab_size) == (kind.tied and not kind.unties, kind.vocab_size or VOCAB)

    unmerged = logprobs(load(base.folder, folder, vocab_size=kind.vocab_size))
    untied = load(base.folder, folder, vocab_size=kind.vocab_size, untie=kind.unties)
    if case != "tied-kept":  # peft itself adds such an update twice when it merges it, once for each end
        assert_close(tensors_of(base, adapter), untied.merge_and_unload().state_dict())
    np.testing.assert_allclose(logprobs(as_a_model(base, adapter)), unmerged, atol=1e-5)
    np.testing.assert_allclose(Reference(base.folder, adapter, "").next_logprobs(IDS), unmerged, atol=1e-5)
    plain = Reference(base.folder, None, "").next_logprobs(IDS)
    assert plain.shape != unmerged.shape or np.abs(plain - unmerged).max() > 1e-3, "the adapter does something"


STACKS: dict[str, tuple[bool, tuple[dict[str, Any], ...]]] = {
    "two-loras": (False, ({"target_modules": ["q_proj"]}, {"target_modules": "all-linear"})),
    "dora-on-lora": (False, ({"target_modules": "all-linear"}, {"target_modules": "all-linear", "use_dora": True})),
    "lora-on-dora": (False, ({"target_modules": "all-linear", "use_dora": True}, {"target_modules": ["q_proj"]})),
    "saved-then-lora": (
        False,
        ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}, {"target_modules": ["embed_tokens"]}),
    ),
    "embedding-doras": (
        False,
        (
            {"target_modules": ["embed_tokens"], "use_dora": True},
            {"target_modules": ["embed_tokens"], "use_dora": True, "use_rslora": True},
        ),
    ),
    "biases": (
        False,
        ({"target_modules": ["q_proj"], "lora_bias": True}, {"target_modules": ["q_proj"], "lora_bias": True}),
    ),
    "tied-tokens-then-output": (
        True,
        ({"target_modules": ["q_proj"], "trainable_token_indices": [1, 5]}, {"target_modules": ["lm_head"]}),
    ),
    "tied-embedding-then-tokens": (
        True,
        ({"target_modules": ["embed_tokens"]}, {"target_modules": ["q_proj"], "trainable_token_indices": [1, 5]}),
    ),
    "three": (False, ({"target_modules": ["q_proj"]}, {"target_modules": ["o_proj"]}, {"target_modules": ["q_proj"]})),
}


@pytest.mark.parametrize("case", STACKS)
def test_adapters_are_merged_in_order(case: str, llamas: Callable[[bool], Path], tmp_path: Path) -> None:
    """Each is trained on the merged result of those before it, and merged into that."""
    tied, configs = STACKS[case]
    base = read_checkpoint(llamas(tied))
    folders: list[Path] = []
    for number, config in enumerate(configs):
        on = base.folder
        if folders:
            on = tmp_path / f"merged-{number}"
            as_a_model(base, read_adapters(tuple(folders), base)).save_pretrained(on)
        folders.append(train(on, tmp_path / f"lora-{number}", seed=number, **Q, **config))
    adapter = read_adapters(tuple(folders), base)
    assert adapter.folders == tuple(folders)
    assert adapter.name == f"lora-{len(folders) - 1}"
    unties = [step.unties for step in adapter.steps]
    on = tmp_path / f"merged-{len(folders) - 1}"
    last = load(on, folders[-1], untie=unties[-1])
    unmerged = logprobs(load(on, folders[-1]))
    assert_close(tensors_of(base, adapter), last.merge_and_unload().state_dict())
    np.testing.assert_allclose(Reference(base.folder, adapter, "").next_logprobs(IDS), unmerged, atol=1e-5)
    proof = merged_logprobs(base, adapter, "", IDS)
    np.testing.assert_allclose(proof[1], proof[0], atol=1e-5)


def test_the_order_of_adapters_matters(llamas: Callable[[bool], Path], tmp_path: Path) -> None:
    base = read_checkpoint(llamas(False))
    one = train(base.folder, tmp_path / "one", seed=1, **Q, target_modules=["q_proj"])
    two = train(base.folder, tmp_path / "two", seed=2, **Q, target_modules=["q_proj"], use_dora=True)
    name = "model.layers.0.self_attn.q_proj.weight"
    found = [tensors_of(base, read_adapters(order, base))[name] for order in ((one, two), (two, one))]
    assert float((found[0] - found[1]).abs().max()) > 1e-2
    expected = [load(base.folder, *order).merge_and_unload().state_dict() for order in ((one, two), (two, one))]
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs[name], rtol=1e-5, atol=1e-6)


POISONED = {
    "magnitude": ({"use_dora": True}, "lora_magnitude_vector"),
    "embedding": ({"target_modules": ["embed_tokens"]}, "lora_embedding_B"),
    "module": ({"modules_to_save": ["norm"]}, "model.norm.weight"),
    "tokens": ({"trainable_token_indices": [1]}, "trainable_tokens_delta"),
    "bias": ({"bias": "lora_only"}, "q_proj.base_layer.bias"),
    "b-bias": ({"lora_bias": True}, "lora_B.bias"),
}


@pytest.mark.parametrize("case", POISONED)
def test_what_is_not_finite_is_named_before_anything_is_computed(
    case: str, llamas: Callable[[bool], Path], tmp_path: Path
) -> None:
    config, name = POISONED[case]
    base = read_checkpoint(llamas(False))
    folder = train(base.folder, tmp_path / "lora", **{**Q, "target_modules": ["q_proj"], **config})
    weights = load_file(folder / "adapter_model.safetensors")
    spoiled = next(key for key in sorted(weights) if key.endswith(name))
    weights[spoiled].view(-1)[-1] = torch.nan
    save_file(weights, folder / "adapter_model.safetensors")
    adapter = read_adapter(folder, base)
    with pytest.raises(InputInvalid, match=f"tensor {re.escape(spoiled)} has a value that is not finite"):
        MergedTensors(base, adapter).__enter__()


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.integers(1, 9), columns=st.integers(1, 9), transposed=st.booleans())
def test_dora_without_an_update_and_with_its_own_lengths_is_the_identity(
    rows: int, columns: int, transposed: bool, tmp_path: Path
) -> None:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows * 10 + columns)) + 2
    outputs, inputs = (columns, rows) if transposed else (rows, columns)
    base = checkpoint(tmp_path / "base", {"w": weight})
    lora = made_adapter(
        tmp_path / "lora", {"w": (torch.ones(1, inputs), torch.zeros(outputs, 1))}, transposed=transposed
    )
    lengths = entries(tmp_path / "lengths.safetensors", {"m": torch.linalg.norm(weight, dim=0 if transposed else 1)})
    [pair] = pairs(lora)
    dora = replace(lora, updates=(replace(pair, magnitude=lengths[0]),))
    with MergedTensors(base, dora) as merged:
        torch.testing.assert_close(merged.whole("w"), weight, rtol=1e-6, atol=0)
