"""Llama and Mixtral checkpoints with random weights and a vocabulary of 400, small enough to quantize in every type."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

VOCABULARY = 400
_MATRICES = tuple(f"{name}.weight" for name in ("_proj", "w1", "w2", "w3"))
_TEXT = (
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on under the warm afternoon sun.",
    "A model that was trained on one machine should give the same answers on another machine.",
    "Weights are numbers; adapters are small matrices whose product is added to the weights.",
)


@dataclass(frozen=True, kw_only=True)
class SmallLlama:
    """A shape; `experts` of them make it a Mixtral.

    With `rows`, every matrix of a block has that many rows instead of those that would fit: converters and quantizers do not
    mind, and the slow kernels have less to do.
    """

    hidden: int
    inner: int
    layers: int
    heads: int = 4
    kv_heads: int = 2
    experts: int = 0
    rows: int | None = None

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of the checkpoint, by name."""
        hidden, head = self.hidden, self.hidden // self.heads
        shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (VOCABULARY, hidden),
            "model.norm.weight": (hidden,),
            "lm_head.weight": (VOCABULARY, hidden),
        }
        for layer in range(self.layers):
            block = f"model.layers.{layer}."
            shapes |= {
                f"{block}input_layernorm.weight": (hidden,),
                f"{block}post_attention_layernorm.weight": (hidden,),
                f"{block}self_attn.q_proj.weight": (self.heads * head, hidden),
                f"{block}self_attn.k_proj.weight": (self.kv_heads * head, hidden),
                f"{block}self_attn.v_proj.weight": (self.kv_heads * head, hidden),
                f"{block}self_attn.o_proj.weight": (hidden, self.heads * head),
            }
            moe = f"{block}block_sparse_moe."
            parts = [f"{moe}experts.{each}." for each in range(self.experts)]
            names = [(part, ("w1", "w3", "w2")) for part in parts] or [
                (f"{block}mlp.", ("gate_proj", "up_proj", "down_proj"))
            ]
            if self.experts:
                shapes[f"{moe}gate.weight"] = (self.experts, hidden)
            for part, (gate, up, down) in names:
                shapes[f"{part}{gate}.weight"] = shapes[f"{part}{up}.weight"] = (self.inner, hidden)
                shapes[f"{part}{down}.weight"] = (hidden, self.inner)
        if self.rows is None:
            return shapes
        return {name: (self.rows, shape[1]) if name.endswith(_MATRICES) else shape for name, shape in shapes.items()}

    def write(self, folder: Path) -> None:
        """Write the checkpoint in bfloat16."""
        import torch
        from safetensors.torch import save_file

        torch.manual_seed(0)
        folder.mkdir(parents=True)
        tensors = {name: (torch.randn(shape) * 0.1).to(torch.bfloat16) for name, shape in self.shapes().items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        moe = {"num_local_experts": self.experts, "num_experts_per_tok": 2} if self.experts else {}
        config = {
            "architectures": ["MixtralForCausalLM" if self.experts else "LlamaForCausalLM"],
            "model_type": "mixtral" if self.experts else "llama", "hidden_size": self.hidden,
            "intermediate_size": self.inner, "num_hidden_layers": self.layers, "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads, "vocab_size": VOCABULARY, "max_position_embeddings": 1024,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2,
            "tie_word_embeddings": False, "torch_dtype": "bfloat16", **moe,
        }  # fmt: skip
        (folder / "config.json").write_text(json.dumps(config, indent=2))
        _write_tokenizer(folder)


def _write_tokenizer(folder: Path) -> None:
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_TEXT), model_writer=model, model_type="bpe", vocab_size=VOCABULARY, byte_fallback=True,
        hard_vocab_limit=True, minloglevel=2, num_threads=1,
    )  # fmt: skip
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    template = "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))
