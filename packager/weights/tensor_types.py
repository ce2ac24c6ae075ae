"""Which GGML type each tensor gets in a quant, decided by llama.cpp itself.

The rules live in llama.cpp and depend on the architecture, the tensor's name and on the order of the tensors (how many of a
kind came before). So they are asked for rather than copied: tensors without data are shown to `llama_quant_compute_types` in
the order that `llama_model_quantize` visits them.

Source:
    llama.cpp `src/llama-quant.cpp` (`llama_model_quantize_impl`), `src/llama-model-loader.h` (`weight_name_comparer`).
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from dataclasses import dataclass

from packager.artifacts import Quant
from packager.errors import Unsupported
from packager.formats.gguf import GgmlType
from packager.weights.llama_library import InitParameters, LlamaLibrary, ModelDescription, llama_library

# llama_ftype of llama.h; what general.file_type says
FILE_TYPES = {Quant.F16: 1, Quant.Q8_0: 7, Quant.Q4_K_M: 15}
_MAX_LAYERS = 512  # LLAMA_MAX_LAYERS; more would abort the process


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """The header values that the choice depends on, by their GGUF meaning; per-layer lists count with their first item."""

    architecture: str
    embedding: int
    feed_forward: int
    layers: int
    heads: int
    heads_kv: int
    experts: int
    head_k: int
    head_v: int


def llama_order(name: str) -> tuple[int, bytes]:
    """Give the sort key of a tensor name: llama.cpp's order is by block number, then by name; no block comes first."""
    match = re.match(r"blk\.(-?\d+)", name)
    return (int(match.group(1)) if match else -1), name.encode()


def quant_types(
    facts: ModelFacts, tensors: Sequence[tuple[str, tuple[int, ...], GgmlType]], quant: Quant
) -> dict[str, GgmlType]:
    """Give the type each tensor has in a quant.

    Args:
        facts: What the model's header says.
        tensors: Name, shape (rows first) and unquantized type, in `llama_order`.
        quant: Q8_0 or Q4_K_M.

    Returns:
        A type for every name; tensors that are never quantized keep theirs.

    Raises:
        Unsupported: The model has more layers than llama.cpp takes, or llama.cpp chose a type that is not known here.
    """
    if not 0 < facts.layers <= _MAX_LAYERS:
        raise Unsupported(f"the model has {facts.layers} layers; llama.cpp takes 1 to {_MAX_LAYERS}")
    library = llama_library()
    with library.quiet():
        chosen = _ask(library, facts, tensors, FILE_TYPES[quant])
    types = {}
    for name, _, kind in tensors:
        number = chosen.get(name, int(kind))
        try:
            types[name] = GgmlType(number)
        except ValueError:
            raise Unsupported(f"llama.cpp gives tensor {name} type {number} in {quant.value}") from None
    return types


def _ask(
    library: LlamaLibrary, facts: ModelFacts, tensors: Sequence[tuple[str, tuple[int, ...], GgmlType]], file_type: int
) -> dict[str, int]:
    parameters = library.default_parameters()
    parameters.ftype = file_type
    model = library.model_from_metadata(ctypes.byref(_description(facts)))
    state = library.quant_init(model, ctypes.byref(parameters))
    arena_bytes = library.tensor_overhead() * (len(tensors) + 1)
    arena = library.ggml_init(InitParameters(mem_size=arena_bytes, mem_buffer=None, no_alloc=True))
    try:
        mocks = [(name, _mock(library, arena, name, shape, kind)) for name, shape, kind in tensors]
        asked = [(name, mock) for name, mock in mocks if library.allows_quantization(state, mock)]
        pointers = (ctypes.c_void_p * len(asked))(*(mock for _, mock in asked))
        results = (ctypes.c_int * len(asked))()
        library.compute_types(state, file_type, pointers, results, len(asked))
        return {name: int(results[index]) for index, (name, _) in enumerate(asked)}
    finally:
        library.ggml_free(arena)
        library.quant_free(state)
        library.model_free(model)


def _mock(library: LlamaLibrary, arena: int, name: str, shape: tuple[int, ...], kind: GgmlType) -> int:
    dimensions = (ctypes.c_int64 * len(shape))(*reversed(shape))
    mock: int = library.new_tensor(arena, int(kind), len(shape), dimensions)
    library.set_name(mock, name.encode())
    return mock


def _description(facts: ModelFacts) -> ModelDescription:
    return ModelDescription(
        architecture=facts.architecture.encode(),
        n_embd=facts.embedding,
        n_ff=facts.feed_forward,
        n_layer=facts.layers,
        n_head=facts.heads,
        n_head_kv=facts.heads_kv,
        n_expert=facts.experts,
        n_embd_head_k=facts.head_k,
        n_embd_head_v=facts.head_v,
    )
