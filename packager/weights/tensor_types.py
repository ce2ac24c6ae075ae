"""Which GGML type each tensor gets in a quant, decided by llama.cpp itself.

The rules live in llama.cpp and depend on the architecture, the tensor's name and on the order of the tensors (how many of a
kind came before). So they are asked for rather than copied: tensors without data are shown to `llama_quant_compute_types` in
the order that `llama_model_quantize` visits them. That function answers as if there were no importance matrix; the few rules
that one changes are applied by asking again under a name, or for a file type, that has the other rule.

Source:
    llama.cpp `src/llama-quant.cpp` (`llama_model_quantize_impl`, `llama_tensor_get_type_impl`, `tensor_requires_imatrix`),
    `src/llama-model-loader.h` (`weight_name_comparer`).
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from dataclasses import dataclass

from packager.artifacts import Quant
from packager.errors import Unsupported, Usage
from packager.formats.gguf import GGML_TYPE_SIZES, GgmlType
from packager.quants import FILE_TYPES
from packager.weights.llama_library import InitParameters, LlamaLibrary, ModelDescription, llama_library

_MAX_LAYERS = 512  # LLAMA_MAX_LAYERS; more would abort the process
# Block types that no smaller one stands in for: llama.cpp would end the process where they do not divide the rows.
_NO_FALLBACK = {Quant.Q1_0: GgmlType.Q1_0}
_NEED_IMPORTANCE = frozenset({
    GgmlType.IQ3_XXS, GgmlType.IQ2_XXS, GgmlType.IQ2_XS, GgmlType.IQ2_S, GgmlType.IQ1_M, GgmlType.IQ1_S,
})  # fmt: skip
_DOWN, _VALUE = "ffn_down", re.compile(r"attn_(v|qkv|kv_b)\.weight")

Listed = tuple[str, tuple[int, ...], GgmlType]


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
    facts: ModelFacts, tensors: Sequence[Listed], quant: Quant, *, importance: bool = False
) -> dict[str, GgmlType]:
    """Give the type each tensor has in a quant.

    Args:
        facts: What the model's header says.
        tensors: Name, shape (rows first) and unquantized type, in `llama_order`.
        quant: A quantized type; floats are the converter's to choose.
        importance: Whether there is an importance matrix.

    Returns:
        A type for every name; tensors that are never quantized keep theirs.

    Raises:
        Unsupported: The model has more layers than llama.cpp takes, rows that this type does not divide, or llama.cpp chose a
            type that is not known here.
    """
    if not 0 < facts.layers <= _MAX_LAYERS:
        raise Unsupported(f"the model has {facts.layers} layers; llama.cpp takes 1 to {_MAX_LAYERS}")
    _check_divisible(tensors, quant)
    library = llama_library()
    with library.quiet():
        chosen = _ask(library, facts, tensors, quant)
        if importance:
            chosen |= _changed(library, facts, tensors, quant, chosen)
    types = {}
    for name, _, kind in tensors:
        number = chosen.get(name, int(kind))
        try:
            types[name] = GgmlType(number)
        except ValueError:
            raise Unsupported(f"llama.cpp gives tensor {name} type {number} in {quant.value}") from None
    return types


def require_importance(types: dict[str, GgmlType], quant: Quant, present: frozenset[str]) -> None:
    """Refuse types that are garbage without an importance matrix, as llama.cpp does.

    Args:
        types: What each tensor would be stored as.
        quant: Of which file.
        present: The tensors that there is a matrix for.

    Raises:
        Usage: A tensor's type needs one, and there is none for it; it is named.
    """
    for name, kind in types.items():
        free = name in present or name in ("token_embd.weight", "per_layer_token_embd.weight", "output.weight")
        coarse = kind in _NEED_IMPORTANCE or (kind is GgmlType.Q2_K and quant is Quant.Q2_K_S)
        if coarse and not free:
            raise Usage(
                f"--quant {quant.value}: {name} becomes {kind.name}, which llama.cpp makes only with an importance matrix",
                hint="Pass --imatrix FILE, or --calibrate DATA.jsonl to compute one from your own conversations.",
            )


def _check_divisible(tensors: Sequence[Listed], quant: Quant) -> None:
    kind = _NO_FALLBACK.get(quant)
    if kind is None:
        return
    block, _ = GGML_TYPE_SIZES[kind]
    for name, shape, _ in tensors:
        if name.startswith("blk.") and len(shape) > 1 and shape[-1] % block:
            raise Unsupported(
                f"--quant {quant.value}: {name} has {shape[-1]} columns, which {block} does not divide",
                hint="Choose another quant (docs/quants.md).",
            )


def _changed(
    library: LlamaLibrary, facts: ModelFacts, tensors: Sequence[Listed], quant: Quant, chosen: dict[str, int]
) -> dict[str, int]:
    """Give the types that an importance matrix changes (`has_imatrix` in llama-quant.cpp)."""
    downs = [name for name, *_ in tensors if name in chosen and _DOWN in name]
    if quant in (Quant.Q4_0, Quant.Q5_0):  # a guard: the first eighth of ffn_down gets the type with a minimum
        guarded = _ask(library, facts, tensors, Quant.Q4_1 if quant is Quant.Q4_0 else Quant.Q5_1)
        first = [name for index, name in enumerate(downs) if _layer(name, index, facts) < facts.layers // 8]
        return {name: guarded[name] for name in first}
    plain: list[str] = []
    if quant in (Quant.IQ4_NL, Quant.IQ4_XS, Quant.IQ3_XXS):  # ffn_down is not raised
        plain += downs
    grouped = facts.heads // facts.heads_kv if facts.heads_kv else 0
    if quant is Quant.IQ3_XXS and grouped < 4 and facts.experts != 8:  # nor are the values
        plain += [name for name in chosen if _VALUE.search(name)]
    # A name without a rule of its own gets the type that the file is called for.
    unruled = {name: f"blk.{index}.unruled.weight" for index, name in enumerate(plain)}
    renamed = [(unruled.get(name, name), shape, kind) for name, shape, kind in tensors]
    found = _ask(library, facts, renamed, quant) if plain else {}
    return {name: found[other] for name, other in unruled.items()}


def _layer(name: str, index: int, facts: ModelFacts) -> int:
    return llama_order(name)[0] if facts.experts > 1 else index


def _ask(library: LlamaLibrary, facts: ModelFacts, tensors: Sequence[Listed], quant: Quant) -> dict[str, int]:
    parameters = library.default_parameters()
    parameters.ftype = FILE_TYPES[quant]
    model = library.model_from_metadata(ctypes.byref(_description(facts)))
    state = library.quant_init(model, ctypes.byref(parameters))
    arena_bytes = library.tensor_overhead() * (len(tensors) + 1)
    arena = library.ggml_init(InitParameters(mem_size=arena_bytes, mem_buffer=None, no_alloc=True))
    try:
        mocks = [(name, _mock(library, arena, name, shape, kind)) for name, shape, kind in tensors]
        asked = [(name, mock) for name, mock in mocks if library.allows_quantization(state, mock)]
        pointers = (ctypes.c_void_p * len(asked))(*(mock for _, mock in asked))
        results = (ctypes.c_int * len(asked))()
        library.compute_types(state, FILE_TYPES[quant], pointers, results, len(asked))
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
