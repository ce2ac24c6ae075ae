"""How large the outputs will be, from names and shapes alone.

An estimate for a plan: it copies the few rules of llama.cpp that matter for sizes and imports nothing heavy. The types that are
written come from llama.cpp itself (`weights.tensor_types`); a test holds the two together within 5 %.

Source:
    llama.cpp `src/llama-quant.cpp` (`llama_tensor_get_type_impl`, `tensor_type_fallback`), LLAMA_FTYPE_MOSTLY_Q4_K_M.
"""

from __future__ import annotations

import json
from pathlib import Path

from packager.artifacts import Checkpoint, Quant, TensorEntry
from packager.formats.gguf import GgmlType, padded, tensor_bytes

_INFO_BYTES = 80  # of one tensor in the header
_METADATA_BYTES = 8_000  # everything but the vocabulary

_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "tok_embeddings.weight", "word_embeddings.weight")
_OUTPUTS = ("lm_head.weight", "output.weight", "embed_out.weight")
_VALUES = (
    "v_proj.weight",
    "qkv_proj.weight",
    "wqkv.weight",
    "query_key_value.weight",
    "c_attn.weight",
    "W_pack.weight",
)
_DOWNS = ("down_proj.weight", "w2.weight", "dense_4h_to_h.weight", "fc2.weight")


def estimated_sizes(base: Checkpoint, quants: tuple[Quant, ...]) -> tuple[tuple[Quant, int], ...]:
    """Give the size of each GGUF in bytes, within 5 % for the common architectures."""
    tensors = [tensor for tensor in base.tensors if tensor.shape and not tensor.name.endswith(".inv_freq")]
    header = _METADATA_BYTES + _INFO_BYTES * len(tensors) + _vocabulary_bytes(base)
    return tuple((quant, header + sum(_sizes(base, tensors, quant))) for quant in quants)


def _sizes(base: Checkpoint, tensors: list[TensorEntry], quant: Quant) -> list[int]:
    untied = any(tensor.name.endswith(_OUTPUTS) for tensor in tensors)
    values = downs = 0
    layers = base.layers
    sizes = []
    for tensor in sorted(tensors, key=_layer_order):
        kind = GgmlType.Q4_K
        if tensor.name.endswith(_OUTPUTS) or (not untied and tensor.name.endswith(_EMBEDDINGS)):
            kind = GgmlType.Q6_K
        elif tensor.name.endswith(_VALUES):
            kind = GgmlType.Q6_K if _more_bits(values, layers) else kind
            values += 1
        elif tensor.name.endswith(_DOWNS):
            kind = GgmlType.Q6_K if _more_bits(downs, layers) else kind
            downs += 1
        sizes.append(padded(tensor_bytes(tensor.shape, _final_type(tensor, quant, kind))))
    return sizes


def _final_type(tensor: TensorEntry, quant: Quant, q4_k_m: GgmlType) -> GgmlType:
    if len(tensor.shape) < 2 or tensor.name.endswith(("norm.weight", ".bias")):
        return GgmlType.F32
    columns = tensor.shape[-1]
    if quant is Quant.F16 or columns % 32:
        return GgmlType.F16
    if quant is Quant.Q8_0:
        return GgmlType.Q8_0
    if columns % 256:
        return GgmlType.Q8_0 if q4_k_m is GgmlType.Q6_K else GgmlType.Q5_0
    return q4_k_m


def _more_bits(index: int, count: int) -> bool:
    eighth = count // 8
    return index < eighth or index >= 7 * count // 8 or (index - eighth) % 3 == 2


def _layer_order(tensor: TensorEntry) -> tuple[int, str]:
    numbers = [part for part in tensor.name.split(".") if part.isdecimal()]
    return (int(numbers[0]) if numbers else -1), tensor.name


def _vocabulary_bytes(base: Checkpoint) -> int:
    """Tokens with a length and a type each, merges with a length each; 20 bytes a token where they cannot be counted."""
    guess = 20 * base.vocab_size
    model = _tokenizer_model(base.folder / "tokenizer.json")
    vocabulary, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocabulary, dict):
        return guess
    padding = max(0, base.vocab_size - len(vocabulary)) * len("[PAD100000]")
    tokens = sum(len(token.encode("utf-8", "replace")) for token in vocabulary) + padding + 12 * base.vocab_size
    pairs = merges if isinstance(merges, list) else []
    return tokens + sum(9 + len(_merge_text(pair).encode("utf-8", "replace")) for pair in pairs)


def _merge_text(pair: object) -> str:
    return "".join(str(part) for part in pair) if isinstance(pair, list) else str(pair)


def _tokenizer_model(path: Path) -> dict[str, object]:
    try:
        tokenizer = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # a damaged tokenizer is reported by its own reader
    model = tokenizer.get("model") if isinstance(tokenizer, dict) else None
    return model if isinstance(model, dict) else {}
