"""The shapes that are measured: the published dimensions of real models, which is what time, memory and disk depend on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

LORA_RANK = 16
LORA_ALPHA = 32


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One tensor of a checkpoint or adapter; `shape` as Hugging Face stores it, rows first."""

    name: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The dimensions of a model.

    Attributes:
        name: What `--sizes` calls it.
        published: The model that has this shape.
        architecture: `qwen2` (biases on q, k and v) or `llama` (none; llama.cpp permutes the rows of q and k).
        hidden: Width of the residual stream.
        inner: Width of the feed-forward layer.
        layers: How many.
        heads: Query heads; `heads_kv` key and value heads.
        vocabulary: Rows of the embedding.
        tied: Whether the embedding is the output layer too.
        template: What LLaMA-Factory calls its chat template.
    """

    name: str
    published: str
    architecture: str
    hidden: int
    inner: int
    layers: int
    heads: int
    heads_kv: int
    vocabulary: int
    tied: bool
    template: str

    @property
    def parameters(self) -> int:
        """How many numbers the base holds."""
        return sum(tensor.elements for tensor in self.base_tensors())

    def linear(self) -> tuple[Tensor, ...]:
        """Give the linear layers of one block, named within it: what a LoRA on `all-linear` adapts."""
        key_value = self.hidden // self.heads * self.heads_kv
        shapes = {
            "self_attn.q_proj": (self.hidden, self.hidden),
            "self_attn.k_proj": (key_value, self.hidden),
            "self_attn.v_proj": (key_value, self.hidden),
            "self_attn.o_proj": (self.hidden, self.hidden),
            "mlp.gate_proj": (self.inner, self.hidden),
            "mlp.up_proj": (self.inner, self.hidden),
            "mlp.down_proj": (self.hidden, self.inner),
        }
        return tuple(Tensor(name=name, shape=shape) for name, shape in shapes.items())

    def base_tensors(self) -> Iterator[Tensor]:
        """Yield the base's tensors, in the order of transformers."""
        yield Tensor(name="model.embed_tokens.weight", shape=(self.vocabulary, self.hidden))
        for layer in range(self.layers):
            block = f"model.layers.{layer}"
            for linear in self.linear():
                yield Tensor(name=f"{block}.{linear.name}.weight", shape=linear.shape)
                if self.architecture == "qwen2" and linear.name[-6:] in ("q_proj", "k_proj", "v_proj"):
                    yield Tensor(name=f"{block}.{linear.name}.bias", shape=linear.shape[:1])
            for norm in ("input_layernorm", "post_attention_layernorm"):
                yield Tensor(name=f"{block}.{norm}.weight", shape=(self.hidden,))
        yield Tensor(name="model.norm.weight", shape=(self.hidden,))
        if not self.tied:
            yield Tensor(name="lm_head.weight", shape=(self.vocabulary, self.hidden))

    def lora_tensors(self) -> Iterator[Tensor]:
        """Yield A and B of a LoRA of rank 16 on every linear layer, under peft's names."""
        for layer in range(self.layers):
            for linear in self.linear():
                module = f"base_model.model.model.layers.{layer}.{linear.name}"
                rows, columns = linear.shape
                yield Tensor(name=f"{module}.lora_A.weight", shape=(LORA_RANK, columns))
                yield Tensor(name=f"{module}.lora_B.weight", shape=(rows, LORA_RANK))


_SHAPES = (
    Shape(
        name="tiny", published="no model, for trying the bench", architecture="llama", hidden=256, inner=512, layers=2,
        heads=4, heads_kv=2, vocabulary=49152, tied=True, template="smollm2",
    ),
    Shape(
        name="135M", published="SmolLM2-135M", architecture="llama", hidden=576, inner=1536, layers=30,
        heads=9, heads_kv=3, vocabulary=49152, tied=True, template="smollm2",
    ),
    Shape(
        name="0.5B", published="Qwen2.5-0.5B", architecture="qwen2", hidden=896, inner=4864, layers=24,
        heads=14, heads_kv=2, vocabulary=151936, tied=True, template="qwen",
    ),
    Shape(
        name="1.5B", published="Qwen2.5-1.5B", architecture="qwen2", hidden=1536, inner=8960, layers=28,
        heads=12, heads_kv=2, vocabulary=151936, tied=True, template="qwen",
    ),
    Shape(
        name="7B", published="Qwen2.5-7B", architecture="qwen2", hidden=3584, inner=18944, layers=28,
        heads=28, heads_kv=4, vocabulary=152064, tied=False, template="qwen",
    ),
)  # fmt: skip
SHAPES = {shape.name: shape for shape in _SHAPES}
