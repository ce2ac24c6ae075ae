"""A probe: a model of a few megabytes with a real vocabulary and meaningless weights.

An engine tokenizes and renders with it exactly as with the full model, loads it in a moment, and counts the tokens of a
prompt. What it answers means nothing.

Source: llama.cpp `src/models/llama.cpp` (the tensors that the architecture `llama` needs; the output layer may be absent, the
embedding is used then).
"""

from __future__ import annotations

from pathlib import Path

from packager.artifacts import Gguf, Quant
from packager.errors import InputInvalid
from packager.formats.gguf import GgmlType, GgufArray, MetadataEntry, Scalar, ValueType, tensor_bytes
from packager.weights.gguf_metadata import without_ends
from packager.weights.gguf_output import GgufOutput

WIDTH = 32  # one block of Q8_0, the narrowest model there can be
CONTEXT_TOKENS = 32768
_MOSTLY_Q8_0 = 7  # llama.h, enum llama_ftype
_TEMPLATE_KEY = "tokenizer.chat_template"
_BOS_KEY = "tokenizer.ggml.add_bos_token"


def write_probe(
    target: Path,
    vocabulary: tuple[MetadataEntry, ...],
    *,
    template: str | None,
    adds_bos: bool | None = None,
    weights: bool = True,
) -> Gguf:
    """Write a probe.

    Args:
        target: The file to write.
        vocabulary: `tokenizer.*` metadata (`packager.weights.vocabulary`).
        template: Its chat template; None for none, which leaves Ollama to its Go template.
        adds_bos: What `add_bos_token` says, with nothing added behind a text, as a build writes it; None leaves what the
            vocabulary says.
        weights: Without them the file can be opened for its vocabulary only.

    Raises:
        InputInvalid: The vocabulary has no tokens.
        NoSpace: The disk is full.
    """
    count = _token_count(target, vocabulary)
    tensors = _tensors(count) if weights else ()
    metadata = (*_hyperparameters(count), *_tokenizer(vocabulary, template, adds_bos))
    output = GgufOutput(target, Quant.Q8_0, metadata, tensors)
    try:
        for _, shape, kind in tensors:
            output.write(bytes(tensor_bytes(shape, kind)))
            output.end_tensor()
        return output.finish()
    except BaseException:
        output.discard()
        raise


def _token_count(target: Path, vocabulary: tuple[MetadataEntry, ...]) -> int:
    tokens = next((entry.value for entry in vocabulary if entry.key == "tokenizer.ggml.tokens"), None)
    if not isinstance(tokens, GgufArray) or not tokens.count:
        raise InputInvalid(f"{target}: the vocabulary has no tokens")
    return tokens.count


def _hyperparameters(count: int) -> tuple[MetadataEntry, ...]:
    def number(key: str, value: int) -> MetadataEntry:
        return MetadataEntry(key=key, type=ValueType.UINT32, value=value)

    return (
        MetadataEntry(key="general.architecture", type=ValueType.STRING, value="llama"),
        MetadataEntry(key="general.name", type=ValueType.STRING, value="packager probe"),
        number("llama.block_count", 1),
        number("llama.context_length", CONTEXT_TOKENS),
        number("llama.embedding_length", WIDTH),
        number("llama.feed_forward_length", WIDTH),
        number("llama.attention.head_count", 1),
        number("llama.attention.head_count_kv", 1),
        number("llama.rope.dimension_count", WIDTH),
        number("llama.vocab_size", count),
        MetadataEntry(key="llama.attention.layer_norm_rms_epsilon", type=ValueType.FLOAT32, value=1e-5),
        number("general.quantization_version", 2),
        number("general.file_type", _MOSTLY_Q8_0),
    )


def _tensors(count: int) -> tuple[tuple[str, tuple[int, ...], GgmlType], ...]:
    square, row = (WIDTH, WIDTH), (WIDTH,)
    names = ("attn_k", "attn_output", "attn_q", "attn_v", "ffn_down", "ffn_gate", "ffn_up")
    return (
        ("output_norm.weight", row, GgmlType.F32),
        ("token_embd.weight", (count, WIDTH), GgmlType.Q8_0),
        ("blk.0.attn_norm.weight", row, GgmlType.F32),
        ("blk.0.ffn_norm.weight", row, GgmlType.F32),
        *((f"blk.0.{name}.weight", square, GgmlType.Q8_0) for name in names),
    )


def _tokenizer(
    vocabulary: tuple[MetadataEntry, ...], template: str | None, adds_bos: bool | None
) -> tuple[MetadataEntry, ...]:
    replaced: dict[str, tuple[ValueType, Scalar | None]] = {_TEMPLATE_KEY: (ValueType.STRING, template)}
    if adds_bos is not None:
        vocabulary = without_ends(vocabulary)
        replaced[_BOS_KEY] = (ValueType.BOOL, adds_bos)
    alternatives = ("tokenizer.chat_templates", f"{_TEMPLATE_KEY}.")
    kept = [entry for entry in vocabulary if entry.key not in replaced and not entry.key.startswith(alternatives)]
    new = [
        MetadataEntry(key=key, type=kind, value=value) for key, (kind, value) in replaced.items() if value is not None
    ]
    return (*kept, *new)
