"""A base and an adapter of a given shape with seeded random weights, written tensor by tensor into safetensors files.

Unlike `save_pretrained`, nothing is held beyond one piece of a tensor per thread, so that a 15 GB base is made in a few hundred
MB. Every piece has a seed of its own: the bytes depend on the shape alone, not on the number of threads.

    python -m scripts.benchmark.models 0.5B TOKENIZER_DIR OUTPUT_DIR     # writes OUTPUT_DIR/base and OUTPUT_DIR/lora

Source:
    The file format: huggingface/safetensors README, "Format".
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from scripts.benchmark.shapes import LORA_ALPHA, LORA_RANK, SHAPES, Shape, Tensor

SHARD_BYTES = 4_000_000_000
DEVIATION = 0.02  # of the weights, transformers' initializer_range
_PIECE_ELEMENTS = 1 << 22
_ITEM_BYTES = {"BF16": 2, "F32": 4}


def make_model(shape: Shape, tokenizer: Path, output: Path) -> None:
    """Write `output/base` (bfloat16, in files of at most 4 GB) and `output/lora` (float32, rank 16, every linear layer).

    Args:
        shape: The dimensions.
        tokenizer: A folder with tokenizer.json and tokenizer_config.json, copied to both.
        output: A folder, made where it is missing.
    """
    base, lora = output / "base", output / "lora"
    for folder in (base, lora):
        folder.mkdir(parents=True)
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            if (tokenizer / name).is_file():
                shutil.copy(tokenizer / name, folder)
    (base / "config.json").write_text(json.dumps(_config(shape), indent=2))
    (lora / "adapter_config.json").write_text(json.dumps(_adapter_config(shape), indent=2))
    shards = _shards(shape.base_tensors())
    names = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    for name, tensors in zip(names, shards, strict=True):
        _write(base / name, tensors, "BF16")
    where = {tensor.name: name for name, tensors in zip(names, shards, strict=True) for tensor in tensors}
    index = {"metadata": {"total_size": 2 * shape.parameters}, "weight_map": where}
    (base / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    _write(lora / "adapter_model.safetensors", list(shape.lora_tensors()), "F32")


def _config(shape: Shape) -> dict[str, object]:
    own = {
        "qwen2": {
            "architectures": ["Qwen2ForCausalLM"], "max_position_embeddings": 32768, "rope_theta": 1e6,
            "rms_norm_eps": 1e-6, "bos_token_id": 151643, "eos_token_id": 151645,
        },
        "llama": {
            "architectures": ["LlamaForCausalLM"], "max_position_embeddings": 8192, "rope_theta": 1e5,
            "rms_norm_eps": 1e-5, "bos_token_id": 1, "eos_token_id": 2, "attention_bias": False, "mlp_bias": False,
        },
    }[shape.architecture]  # fmt: skip
    return own | {
        "model_type": shape.architecture,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads_kv,
        "vocab_size": shape.vocabulary,
        "tie_word_embeddings": shape.tied,
        "torch_dtype": "bfloat16",
    }


def _adapter_config(shape: Shape) -> dict[str, object]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": LORA_RANK,
        "lora_alpha": LORA_ALPHA,
        "target_modules": [linear.name.rsplit(".", 1)[-1] for linear in shape.linear()],
        "bias": "none",
        "inference_mode": True,
    }


def _shards(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    shards: list[list[Tensor]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + 2 * tensor.elements > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += 2 * tensor.elements
    return shards


def _write(path: Path, tensors: list[Tensor], dtype: str) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    item, offset = _ITEM_BYTES[dtype], 0
    starts = []
    for tensor in tensors:
        end = offset + item * tensor.elements
        header[tensor.name] = {"dtype": dtype, "shape": tensor.shape, "data_offsets": [offset, end]}
        starts.append(offset)
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        data = file.tell()
        file.truncate(data + offset)

        def write(piece: tuple[Tensor, int, int, int]) -> None:
            tensor, start, first, count = piece
            values = _values(tensor, first, count)
            view = (_bfloat16(values) if dtype == "BF16" else values).view(np.uint8).data
            at = data + start + item * first
            while view:
                done = os.pwrite(file.fileno(), view, at)
                view, at = view[done:], at + done

        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            for _ in pool.map(write, _pieces(tensors, starts)):
                pass


def _pieces(tensors: list[Tensor], starts: list[int]) -> Iterator[tuple[Tensor, int, int, int]]:
    for tensor, start in zip(tensors, starts, strict=True):
        for first in range(0, tensor.elements, _PIECE_ELEMENTS):
            yield tensor, start, first, min(_PIECE_ELEMENTS, tensor.elements - first)


def _values(tensor: Tensor, first: int, count: int) -> npt.NDArray[np.float32]:
    if "norm" in tensor.name:
        return np.ones(count, dtype=np.float32)
    generator = np.random.default_rng([zlib.crc32(tensor.name.encode()), first])
    return generator.standard_normal(count, dtype=np.float32) * np.float32(DEVIATION)


def _bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Cut off the lower halves: rounding towards zero, which is as random as the rest."""
    return (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16)


if __name__ == "__main__":
    make_model(SHAPES[sys.argv[1]], Path(sys.argv[2]), Path(sys.argv[3]))
