"""A block of float32 rows to the bytes of a GGML type and back, by llama.cpp's own kernels.

Every row is converted by itself, so neither the size of a block nor the number of threads changes a byte. All of this runs
without the GIL.

Source:
    llama.cpp `ggml/src/ggml.c` `ggml_quantize_chunk`, `type_traits`; float16 is rounded to nearest even, as numpy (and so
    `convert_hf_to_gguf.py`) does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from packager.errors import InputInvalid
from packager.formats.gguf import GGML_TYPE_SIZES, GgmlType
from packager.weights.importance import RowImportance
from packager.weights.llama_library import llama_library
from packager.weights.merged import byte_view

# Half of the distance from the largest float16 to the next power: from here on, rounding gives infinity.
FLOAT16_OVERFLOW = 65520.0
BFLOAT16_OVERFLOW = 3.3961776e38  # the same of bfloat16
BLOCK_OVERFLOW = 65504.0 * 128 * 32  # the largest scale, sub-scale and step of any block type (Q6_K)


def convert_rows(
    block: torch.Tensor,
    kinds: Iterable[GgmlType],
    name: str,
    *,
    first: int = 0,
    importance: RowImportance | None = None,
) -> dict[GgmlType, memoryview]:
    """Convert rows to every GGML type that is wanted.

    Args:
        block: Shape `(rows, columns)`, float32, contiguous, finite; columns a whole number of blocks of `kind`.
        kinds: F32, F16, or quantized types.
        name: The tensor, for the error.
        first: The first of the rows, counted from the tensor's start: experts have an importance of their own.
        importance: How much each column counts; None weighs by the values themselves.

    Returns:
        For each type the rows' bytes, one after the other.

    Raises:
        InputInvalid: A value does not fit the type (float16 ends at 65504; quantized blocks have float16 scales).
    """
    largest = max((abs(float(bound)) for bound in torch.aminmax(block)), default=0.0)
    converter = _Converter(block, name, first, importance, largest)
    return {kind: converter.converted(kind) for kind in kinds}


def can_round(kind: GgmlType, *, importance: bool = False) -> bool:
    """Whether `convert_rows` makes this type and `read_rows` reads it: some need an importance matrix, integers neither."""
    library = llama_library()
    if kind is GgmlType.F32:
        return True
    readable = bool(library.type_traits(int(kind)).contents.to_float) and kind is not GgmlType.NVFP4
    return readable and (importance or not library.needs_importance(int(kind)))


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


@dataclass(frozen=True)
class _Converter:
    """One block of rows on its way to several types; `largest` is its largest magnitude."""

    block: torch.Tensor
    name: str
    first: int
    importance: RowImportance | None
    largest: float

    def converted(self, kind: GgmlType) -> memoryview:
        match kind:
            case GgmlType.F32:
                return byte_view(self.block)
            case GgmlType.F16:
                return self._rounded(torch.float16, FLOAT16_OVERFLOW, "Build without f16: --quant q8_0,q4_k_m.")
            case GgmlType.BF16:
                return self._rounded(torch.bfloat16, BFLOAT16_OVERFLOW, "Build without bf16: --quant q8_0,q4_k_m.")
        return self._quantized(kind)

    def _rounded(self, dtype: torch.dtype, overflow: float, hint: str) -> memoryview:
        if self.largest >= overflow:
            what = str(dtype).removeprefix("torch.")
            raise InputInvalid(
                f"tensor {self.name} has a value beyond {overflow:.0f}, which {what} does not hold", hint=hint
            )
        return byte_view(self.block.to(dtype))

    def _quantized(self, kind: GgmlType) -> memoryview:
        rows, columns = self.block.shape
        elements, size = GGML_TYPE_SIZES[kind]
        row_bytes = columns // elements * size
        result = torch.empty(rows * row_bytes, dtype=torch.uint8)
        library = llama_library()
        for start, end, weights in self._stretches():
            source, target = self.block[start:end].data_ptr(), result.data_ptr() + start * row_bytes
            library.quantize_chunk(int(kind), source, target, 0, end - start, columns, weights)
        # A scale is at most the largest value: only where that is no float16 can a block have become invalid.
        # Far beyond that, llama.cpp's sums overflow too, and a block of zeros can come out that counts as valid.
        if self.largest > BLOCK_OVERFLOW or (self.largest > FLOAT16_OVERFLOW and not _is_valid(kind, result)):
            raise InputInvalid(f"tensor {self.name} has values too large for {kind.name}")
        return byte_view(result)

    def _stretches(self) -> Iterator[tuple[int, int, int | None]]:
        """Give the rows of each expert in this block, and where the importance of its columns lies."""
        rows = self.block.shape[0]
        if self.importance is None:
            yield 0, rows, None
            return
        start = 0
        while start < rows:
            matrix, inside = divmod(self.first + start, self.importance.rows)
            end = min(rows, start + self.importance.rows - inside)
            yield start, end, self.importance.values[matrix].data_ptr()
            start = end


def _is_valid(kind: GgmlType, data: torch.Tensor) -> bool:
    library = llama_library()
    with library.quiet():
        return bool(library.validate_row_data(int(kind), data.data_ptr(), data.numel()))
