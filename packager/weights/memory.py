"""How much memory the pass takes, from names and shapes alone, and the bounds that make it independent of the model's size.

Imports nothing heavy. A test holds the estimate against what a process takes.
"""

from __future__ import annotations

import math

from packager.artifacts import Checkpoint
from packager.cores import usable_cores

# Converted bytes that may wait to be written: while the tokenizer is read, this is what the kernels work on.
BYTES_AHEAD = 96 << 20
# Converted bytes that may wait for the slowest file.
BYTES_WAITING = 32 << 20
# Parts of computed tensors that are kept, because making them again for every block would cost too much.
CACHE_BYTES = 64 << 20

# Measured on CPython 3.11, torch 2.15 with CUDA libraries, transformers 5: what is resident before the first weight is read.
_RUNTIME_BYTES = 590_000_000
_BYTES_PER_TOKEN = 1_150  # of the vocabulary, read by transformers and written as metadata
_BYTES_PER_THREAD = 8_000_000  # one block as it is stored, merged, and in every type
# The converter permutes their q and k, and reads a tokenizer.json in a second way before it finds what it is.
_LLAMAS = ("LlamaForCausalLM", "MistralForCausalLM", "MixtralForCausalLM")


def estimated_peak_memory(base: Checkpoint, output_bytes: int) -> int:
    """Give the most memory a pass is expected to hold, in bytes: the same at any size but for the vocabulary.

    Args:
        base: The checkpoint.
        output_bytes: Size of all files that are written: what is small never fills the bounds.
    """
    llama = base.architecture in _LLAMAS
    readings = 2 if llama and not (base.folder / "tokenizer.model").is_file() else 1
    vocabulary = readings * _BYTES_PER_TOKEN * base.vocab_size
    fused = any(len(tensor.shape) > 2 and math.prod(tensor.shape) * 4 > CACHE_BYTES for tensor in base.tensors)
    kept = 2 * CACHE_BYTES if fused else CACHE_BYTES if llama else 0
    in_flight = min(BYTES_AHEAD + kept, output_bytes)
    return _RUNTIME_BYTES + vocabulary + in_flight + _BYTES_PER_THREAD * usable_cores()
