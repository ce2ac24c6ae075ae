"""How to make a tiny checkpoint of every architecture that is proved: what config.json says beside the common sizes.

Two layers, and rows of 256 values or more, so that k-quants apply to nearly all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

LAYERS, HIDDEN, INNER, HEADS, KV_HEADS, VOCABULARY = 2, 256, 512, 4, 2, 512


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """How to make a tiny checkpoint.

    Attributes:
        model: The architecture's class, in transformers unless there are `shapes`.
        config: Its configuration, on top of `COMMON`.
        written: What config.json has beside that, as published models do and transformers 5 does not write.
        sentencepiece: Whether its vocabulary is a tokenizer.model, otherwise tokenizer.json.
        transposed: Whether its linear layers are stored `(in, out)`, as transformers' Conv1D has them.
        shapes: Every tensor, for a class that transformers does not have: its names are those of the author's code.
    """

    model: str
    config: dict[str, object] = field(default_factory=dict)
    written: dict[str, object] = field(default_factory=dict)
    sentencepiece: bool = False
    transposed: bool = False
    shapes: Callable[[], dict[str, tuple[int, ...]]] | None = None


COMMON: dict[str, object] = {
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 1024,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.1,
}
_UNTIED = {"tie_word_embeddings": False}


def _internlm2() -> dict[str, tuple[int, ...]]:
    head = HIDDEN // HEADS
    shapes: dict[str, tuple[int, ...]] = {
        "model.tok_embeddings.weight": (VOCABULARY, HIDDEN),
        "model.norm.weight": (HIDDEN,),
        "output.weight": (VOCABULARY, HIDDEN),
    }
    for layer in range(LAYERS):
        block = f"model.layers.{layer}."
        shapes |= {
            f"{block}attention.wqkv.weight": ((HEADS + 2 * KV_HEADS) * head, HIDDEN),
            f"{block}attention.wo.weight": (HIDDEN, HEADS * head),
            f"{block}feed_forward.w1.weight": (INNER, HIDDEN),
            f"{block}feed_forward.w2.weight": (HIDDEN, INNER),
            f"{block}feed_forward.w3.weight": (INNER, HIDDEN),
            f"{block}attention_norm.weight": (HIDDEN,),
            f"{block}ffn_norm.weight": (HIDDEN,),
        }
    return shapes


ARCHITECTURES = {
    "qwen2": Architecture(model="Qwen2ForCausalLM", config={"tie_word_embeddings": True}),
    "qwen3": Architecture(model="Qwen3ForCausalLM", config={"head_dim": 64, **_UNTIED}),
    "qwen3-moe": Architecture(
        model="Qwen3MoeForCausalLM",
        config={"head_dim": 64, "moe_intermediate_size": 256, "num_experts": 4, "num_experts_per_tok": 2, **_UNTIED},
    ),
    "llama": Architecture(model="LlamaForCausalLM", sentencepiece=True, config=_UNTIED),
    "mistral": Architecture(model="MistralForCausalLM", sentencepiece=True, config=_UNTIED),
    "mixtral": Architecture(
        model="MixtralForCausalLM",
        sentencepiece=True,
        config={"num_local_experts": 4, "num_experts_per_tok": 2, **_UNTIED},
    ),
    "gemma2": Architecture(model="Gemma2ForCausalLM", sentencepiece=True, config={"head_dim": 64}),
    "gemma3": Architecture(model="Gemma3ForCausalLM", sentencepiece=True, config={"head_dim": 64}),
    "phi3": Architecture(model="Phi3ForCausalLM", sentencepiece=True, config=_UNTIED),
    "internlm2": Architecture(
        model="InternLM2ForCausalLM",
        sentencepiece=True,
        config={"model_type": "internlm2", "rms_norm_eps": 1e-5, "rope_theta": 1e6, **_UNTIED},
        shapes=_internlm2,
    ),
    "glm4": Architecture(model="Glm4ForCausalLM", config={"head_dim": 64, **_UNTIED}),
    "deepseek-v2": Architecture(
        model="DeepseekV2ForCausalLM",
        config={
            "num_key_value_heads": HEADS, "first_k_dense_replace": 1, "kv_lora_rank": 64, "q_lora_rank": 96,
            "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 256,
            "qk_nope_head_dim": 32, "qk_rope_head_dim": 32, "v_head_dim": 64, "n_group": 1, "topk_group": 1, **_UNTIED,
        },
    ),
    "cohere": Architecture(model="CohereForCausalLM"),
    "starcoder2": Architecture(model="Starcoder2ForCausalLM", config={"tie_word_embeddings": True}),
    "gpt-neox": Architecture(model="GPTNeoXForCausalLM", config=_UNTIED, written={"rotary_pct": 0.25}),
    "falcon": Architecture(
        model="FalconForCausalLM",
        config={"new_decoder_architecture": True, "num_kv_heads": KV_HEADS, "ffn_hidden_size": 4 * HIDDEN},
    ),
    "qwen2-moe": Architecture(
        model="Qwen2MoeForCausalLM",
        config={
            "moe_intermediate_size": 256, "shared_expert_intermediate_size": 512, "num_experts": 4,
            "num_experts_per_tok": 2, **_UNTIED,
        },
    ),
    "gemma": Architecture(model="GemmaForCausalLM", sentencepiece=True, config={"head_dim": 64}),
    "cohere2": Architecture(
        model="Cohere2ForCausalLM", config={"head_dim": 64, "sliding_window": 512}, written={"rotary_pct": 1.0}
    ),
    "olmo2": Architecture(model="Olmo2ForCausalLM", config=_UNTIED),
    "granite": Architecture(model="GraniteForCausalLM", config=_UNTIED),
    "granite-moe": Architecture(
        model="GraniteMoeForCausalLM", config={"num_local_experts": 4, "num_experts_per_tok": 2, **_UNTIED}
    ),
    "phi2": Architecture(model="PhiForCausalLM", config=_UNTIED),
    "gpt2": Architecture(
        model="GPT2LMHeadModel",
        config={"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_positions": 1024},
        written={"n_ctx": 1024},
        transposed=True,
    ),
    "bloom": Architecture(model="BloomForCausalLM", config={"n_layer": LAYERS, "n_head": HEADS}),
    "stablelm": Architecture(model="StableLmForCausalLM", config=_UNTIED),
    "olmoe": Architecture(
        model="OlmoeForCausalLM", config={"num_experts": 4, "num_experts_per_tok": 2, **_UNTIED}
    ),
    "exaone4": Architecture(model="Exaone4ForCausalLM", config={"sliding_window": 512, **_UNTIED}),
    "smollm3": Architecture(model="SmolLM3ForCausalLM", config={"tie_word_embeddings": True}),
    "deepseek-v3": Architecture(
        model="DeepseekV3ForCausalLM",
        config={
            "num_key_value_heads": HEADS, "first_k_dense_replace": 1, "kv_lora_rank": 64, "q_lora_rank": 96,
            "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 256,
            "qk_nope_head_dim": 32, "qk_rope_head_dim": 32, "v_head_dim": 64, "n_group": 1, "topk_group": 1, **_UNTIED,
        },
    ),
    "ernie4.5": Architecture(model="Ernie4_5ForCausalLM", sentencepiece=True, config={"head_dim": 64, **_UNTIED}),
    "seed-oss": Architecture(model="SeedOssForCausalLM", config={"head_dim": 64, **_UNTIED}),
    "nemotron": Architecture(model="NemotronForCausalLM", sentencepiece=True, config=_UNTIED),
    "glm4-moe": Architecture(
        model="Glm4MoeForCausalLM",
        config={
            "head_dim": 64, "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2,
            "moe_intermediate_size": 256, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1, **_UNTIED,
        },
    ),
    "gpt-oss": Architecture(
        model="GptOssForCausalLM",
        config={"head_dim": 64, "intermediate_size": 256, "num_local_experts": 4, "num_experts_per_tok": 2, **_UNTIED},
    ),
}  # fmt: skip
