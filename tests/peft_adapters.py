"""Small Llamas and adapters of every kind, made, saved and merged by transformers and peft themselves."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

LAYERS, VOCAB, HIDDEN = 2, 32, 16


def save_llama(
    folder: Path, *, tied: bool, dtype: torch.dtype = torch.float32, biased: bool = False, seed: int = 0
) -> Path:
    """A Llama of two layers, 16 wide."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=HIDDEN, intermediate_size=24, num_hidden_layers=LAYERS, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=tied, attention_bias=biased, max_position_embeddings=64,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) / 4)
    model.save_pretrained(folder)
    return folder


def train(base: Path, output: Path, *, seed: int = 1, vocab_size: int | None = None, **config: Any) -> Path:
    """Save an adapter whose every trained value is random, as training with peft does; `vocab_size` resizes before."""
    from peft import LoraConfig, get_peft_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns that it saves an output layer, and about unused patterns
        model = load_base(base)
        torch.manual_seed(seed)
        if vocab_size is not None:
            model.resize_token_embeddings(vocab_size, mean_resizing=False)
        model = get_peft_model(model, LoraConfig(init_lora_weights=False, task_type="CAUSAL_LM", **config))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) / 8)
        model.save_pretrained(output)
    return output


def load_base(base: Path) -> Any:
    """The base as transformers loads it, in float32."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)


def load(base: Path, *adapters: Path, vocab_size: int | None = None, untie: bool = False) -> Any:
    """peft's own model of a base and saved adapters: each but the last is merged before the next is loaded.

    `untie` gives the output layer a copy of the weight that it shares, as peft advises for merging.
    """
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = load_base(base)
        if vocab_size is not None:
            model.resize_token_embeddings(vocab_size, mean_resizing=False)
        for adapter in adapters:
            if hasattr(model, "merge_and_unload"):
                model = model.merge_and_unload()
            model = PeftModel.from_pretrained(model, adapter)
        if untie:
            _untie(model)
        return model.eval()


def _untie(model: Any) -> None:
    head = model.get_output_embeddings()
    for inside in ("original_module", "base_layer"):
        head = getattr(head, inside, head)
    model.config.tie_word_embeddings = False
    head.weight = torch.nn.Parameter(head.weight.detach().clone())
