"""A block of float32 rows to the bytes of a GGML type and back, by llama.cpp's own kernels.

Every row is converted by itself, so neither the size of a block nor the number of threads changes a byte. All of this runs
without the GIL.

Source:
    llama.cpp `ggml/src/ggml.c` `ggml_quantize_chunk`, `type_traits`; float16 is rounded to nearest even, as numpy (and so
    `convert_hf_to_gguf.py`) does.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from packager.errors import InputInvalid
from packager.formats.gguf import GGML_TYPE_SIZES, GgmlType
from packager.weights.llama_library import llama_library
from packager.weights.merged import byte_view

# Half of the distance from the largest float16 to the next power: from here on, rounding gives infinity.
FLOAT16_OVERFLOW = 65520.0
BLOCK_OVERFLOW = 65504.0 * 128 * 32  # the largest scale, sub-scale and step of any block type (Q6_K)


def convert_rows(block: torch.Tensor, kinds: Iterable[GgmlType], name: str) -> dict[GgmlType, memoryview]:
    """Convert rows to every GGML type that is wanted.

    Args:
        block: Shape `(rows, columns)`, float32, contiguous, finite; columns a whole number of blocks of `kind`.
        kinds: F32, F16, or quantized types.
        name: The tensor, for the error.

    Returns:
        For each type the rows' bytes, one after the other.

    Raises:
        InputInvalid: A value does not fit the type (float16 ends at 65504; quantized blocks have float16 scales).
    """
    largest = max((abs(float(bound)) for bound in torch.aminmax(block)), default=0.0)
    return {kind: _converted(block, kind, name, largest) for kind in kinds}


def can_round(kind: GgmlType) -> bool:
    """Whether `convert_rows` makes this type and `read_rows` reads it: some need an importance matrix, integers neither."""
    library = llama_library()
    if kind is GgmlType.F32:
        return True
    return bool(library.type_traits(int(kind)).contents.to_float) and not library.needs_importance(int(kind))


def is_coarse(kind: GgmlType) -> bool:
    """Whether a type has fewer than eight bits for each value."""
    elements, size = GGML_TYPE_SIZES[kind]
    return size < elements


def read_rows(data: torch.Tensor, kind: GgmlType, rows: int, columns: int) -> torch.Tensor:
    """Give the values that rows of a GGML type stand for: the other direction of `convert_rows`.

    Args:
        data: The rows' bytes, one after the other, uint8, contiguous.
        kind: A type that `can_round`.
        rows: How many.
        columns: Elements of each, a whole number of blocks of `kind`.

    Returns:
        Shape `(rows, columns)`, float32; what is not finite in `data` is not finite here.
    """
    if kind is GgmlType.F32:
        return data.view(torch.float32).reshape(rows, columns)
    result = torch.empty((rows, columns), dtype=torch.float32)
    library = llama_library()
    library.type_traits(int(kind)).contents.to_float(data.data_ptr(), result.data_ptr(), rows * columns)
    return result


def _converted(block: torch.Tensor, kind: GgmlType, name: str, largest: float) -> memoryview:
    if kind is GgmlType.F32:
        return byte_view(block)
    if kind is GgmlType.F16:
        if largest >= FLOAT16_OVERFLOW:
            raise InputInvalid(
                f"tensor {name} has a value beyond {FLOAT16_OVERFLOW:.0f}, which float16 does not hold",
                hint="Build without f16: --quant q8_0,q4_k_m.",
            )
        return byte_view(block.to(torch.float16))
    rows, columns = block.shape
    elements, size = GGML_TYPE_SIZES[kind]
    result = torch.empty(rows * columns // elements * size, dtype=torch.uint8)
    library = llama_library()
    library.quantize_chunk(int(kind), block.data_ptr(), result.data_ptr(), 0, rows, columns, None)
    # A scale is at most the largest value: only where that is no float16 can a block have become invalid.
    # Far beyond that, llama.cpp's sums overflow too, and a block of zeros can come out that counts as valid.
    if largest > BLOCK_OVERFLOW or (largest > FLOAT16_OVERFLOW and not _is_valid(kind, result)):
        raise InputInvalid(f"tensor {name} has values too large for {kind.name}")
    return byte_view(result)


def _is_valid(kind: GgmlType, data: torch.Tensor) -> bool:
    library = llama_library()
    with library.quiet():
        return bool(library.validate_row_data(int(kind), data.data_ptr(), data.numel()))
