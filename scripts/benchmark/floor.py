"""The floor: llama.cpp's kernels alone, on float32 rows that are already in memory, in as many threads as packager uses.

What it contains: every conversion that the GGUF files need, once for each type in which a tensor is wanted: float16 by torch
(the fastest rounding here), everything else by `ggml_quantize_chunk`. What it does not contain: reading, merging, checking for
finite values, digests, writing, imports, tokenizer. Rows are random, of the weights' deviation, from a pool of 64 MB that
every thread walks through, so they come from memory and not from the processor's nearest cache.

    python -m scripts.benchmark.floor < WORK.json      # prints its cost as JSON
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch

from packager.codec import decode, encode
from packager.cores import usable_cores
from packager.formats.gguf import GGML_TYPE_SIZES, GgmlType
from packager.weights.llama_library import LlamaLibrary, llama_library
from scripts.benchmark.conversions import FloorCost, Work

_POOL_ELEMENTS = 1 << 24
_BLOCK_ELEMENTS = 1 << 18
WARM_UP_COLUMNS = 256


def run_floor(work: tuple[Work, ...], threads: int) -> FloorCost:
    """Convert everything once and give what it took."""
    torch.set_num_threads(1)
    pool = torch.randn(_POOL_ELEMENTS, generator=torch.Generator().manual_seed(0)).mul_(0.02)
    library = llama_library()
    local = threading.local()
    largest_bytes = 2 * max([_BLOCK_ELEMENTS, *(part.columns for part in work)])

    def convert(block: tuple[int, int, int, tuple[int, ...]]) -> None:
        start, rows, columns, kinds = block
        if not hasattr(local, "out"):
            local.out = torch.empty(largest_bytes, dtype=torch.uint8)
        source = pool[start : start + rows * columns].view(rows, columns)
        for kind in kinds:
            convert_block(library, source, kind, local.out)

    with ThreadPoolExecutor(max_workers=threads) as executor:
        for _ in executor.map(convert, [(0, 1, WARM_UP_COLUMNS, (int(GgmlType.Q4_K),))] * threads):
            pass  # the tables of the kernels are made on their first call
        start, start_cpu = time.perf_counter(), time.process_time()
        for _ in executor.map(convert, _blocks(work)):
            pass
        return FloorCost(seconds=time.perf_counter() - start, cpu_seconds=time.process_time() - start_cpu)


def convert_block(library: LlamaLibrary, source: torch.Tensor, kind: int, out: torch.Tensor) -> int:
    """Convert rows to one type.

    Args:
        library: `llama_library()`.
        source: Shape `(rows, columns)`, float32, contiguous.
        kind: A GGML type.
        out: Where the bytes go, uint8, large enough.

    Returns:
        How many bytes were written.
    """
    rows, columns = source.shape
    if kind == GgmlType.F16:
        out[: 2 * rows * columns].view(torch.float16).view(rows, columns).copy_(source)
        return 2 * rows * columns
    written: int = library.quantize_chunk(kind, source.data_ptr(), out.data_ptr(), 0, rows, columns, None)
    elements, size = GGML_TYPE_SIZES[GgmlType(kind)]
    if written != rows * columns // elements * size:
        raise ValueError(f"{GgmlType(kind).name}: {written} bytes for {rows} rows of {columns}")
    return written


def _blocks(work: tuple[Work, ...]) -> Iterator[tuple[int, int, int, tuple[int, ...]]]:
    """Yield the place in the pool, rows, columns and types of every block."""
    place = 0
    for part in work:
        step = max(1, _BLOCK_ELEMENTS // part.columns)
        for first in range(0, part.rows, step):
            rows = min(step, part.rows - first)
            if place + rows * part.columns > _POOL_ELEMENTS:
                place = 0
            yield place, rows, part.columns, part.kinds
            place += rows * part.columns


def main() -> None:
    """Read the work from stdin and print the cost, with packager's number of threads."""
    work = decode(tuple[Work, ...], json.load(sys.stdin))
    print(json.dumps(encode(run_floor(work, usable_cores()))))


if __name__ == "__main__":
    main()
