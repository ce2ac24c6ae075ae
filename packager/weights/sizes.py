"""How large the outputs will be, from names and shapes alone.

An estimate for a plan: the types are those that llama.cpp gives to the names that the tensors will probably have
(`weights.listed_types`), and nothing heavy is imported. A test holds it to what is written within 5 %.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from packager.artifacts import Checkpoint, Dtype, Quant, TensorEntry
from packager.formats.gguf import padded, tensor_bytes
from packager.weights.listed_types import listed_types
from packager.weights.tensor_types import require_importance

_INFO_BYTES = 80  # of one tensor in the header
MAX_SHARD_BYTES = 5_000_000_000  # of tensors in one file of a checkpoint, unless one alone is larger
INDEX_NAME = "model.safetensors.index.json"
_FLOAT_BYTES = {Dtype.FLOAT32: 4, Dtype.BFLOAT16: 2, Dtype.FLOAT16: 2}
_METADATA_BYTES = 8_000  # everything but the vocabulary


def estimated_sizes(
    base: Checkpoint, quants: tuple[Quant, ...], *, importance: bool = False
) -> tuple[tuple[Quant, int], ...]:
    """Give the size of each GGUF in bytes, within 5 % for the common architectures.

    Args:
        base: The model.
        quants: The files.
        importance: Whether there will be an importance matrix.

    Raises:
        Usage: A quant needs an importance matrix, and there will be none.
        Unsupported: llama.cpp cannot write the model in that type.
        ToolMissing: llama-cpp-python is not installed.
    """
    tensors = [tensor for tensor in base.tensors if tensor.shape and not tensor.name.endswith(".inv_freq")]
    header = _METADATA_BYTES + _INFO_BYTES * len(tensors) + _vocabulary_bytes(base)
    sizes = []
    for quant in quants:
        listed = listed_types(base, tensors, quant, importance=importance)
        if not importance:
            require_importance({name: kind for _, name, kind in listed}, quant, frozenset())
        sizes.append((quant, header + sum(padded(tensor_bytes(each.shape, kind)) for each, _, kind in listed)))
    return tuple(sizes)


def stored_bytes(tensor: TensorEntry, dtype: Dtype) -> int:
    """Give the size of a tensor in a merged checkpoint: floats take `dtype`, everything else stays."""
    is_float = tensor.dtype.startswith(("F", "BF"))
    return math.prod(tensor.shape) * _FLOAT_BYTES[dtype] if is_float else tensor.size_bytes


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
