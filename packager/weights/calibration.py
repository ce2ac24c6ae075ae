"""An importance matrix computed from text: llama.cpp evaluates a file and its activations are added up, squared.

This is what llama.cpp's own llama-imatrix does, through the same callback of its scheduler: chunks of 512 tokens, each with a
context of its own, BOS in front where the vocabulary wants it; for every weight of a block the squares of what is multiplied
with it are summed in float32 for each column, for a stack of experts by the expert that a token went to.

Source:
    llama.cpp `tools/imatrix/imatrix.cpp` (`collect_imatrix`, `compute_imatrix`, `save_imatrix`), `ggml/include/ggml.h`
    (`struct ggml_tensor`), as vendored by llama-cpp-python 0.3.36.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packager.cores import usable_cores
from packager.errors import InputInvalid, Unsupported
from packager.events import Advanced, Emit, silent
from packager.formats.gguf import GgmlType, GgufArray, MetadataEntry, ValueType, header_bytes, padded
from packager.weights.gguf_output import disk_errors
from packager.weights.llama_library import llama_library

CHUNK_TOKENS = 512
LEAST_TOKENS = 2 * CHUNK_TOKENS  # as llama-imatrix
MOST_CHUNKS = 200  # more changes little: docs/quants.md
_LEAST_BATCH = 16  # smaller multiplications are left out, as llama-imatrix does
_F32 = 0  # GGML_TYPE_F32


class _Tensor(ctypes.Structure):
    """`struct ggml_tensor`."""


_Tensor._fields_ = [
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * 4),
    ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(_Tensor) * 10),
    ("view_src", ctypes.POINTER(_Tensor)),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * 64),
    ("extra", ctypes.c_void_p),
    ("padding", ctypes.c_char * 8),
]


@dataclass(frozen=True, kw_only=True)
class Squares:
    """Sums of squares of one weight's inputs: `sums` of shape `(matrices, columns)`, `counts` of `(matrices,)`, float32."""

    sums: NDArray[np.float32]
    counts: NDArray[np.int64]


@dataclass
class Collector:
    """Adds up what the scheduler shows; `problem` is the first thing that was not as expected."""

    found: dict[str, Squares] = field(default_factory=dict)
    problem: str = ""

    def see(self, tensor: Any, ask: bool) -> bool:  # the callback's own arguments
        """Answer the scheduler: whether a multiplication is wanted, and when it is computed, add it."""
        operation = llama_library().op_name(tensor.op)
        if operation not in (b"MUL_MAT", b"MUL_MAT_ID"):
            return not ask
        weight, rows = tensor.src[0].contents, tensor.src[1].contents
        name = _plain_name(weight.name)
        if operation == b"MUL_MAT" and (rows.ne[1] < _LEAST_BATCH or rows.type != _F32 or not name.startswith("blk.")):
            return not ask
        if ask:
            return True
        if operation == b"MUL_MAT":
            self._dense(name, weight, rows)
        else:
            self._experts(name, weight, rows, tensor.src[2].contents)
        return True

    def _dense(self, name: str, weight: Any, rows: Any) -> None:
        matrices = weight.ne[2] * weight.ne[3]
        held = self._held(name, rows.ne[0], matrices, 1)
        values = _array(rows, np.float32)
        for third in range(rows.ne[3]):
            for second in range(rows.ne[2]):
                matrix = third % weight.ne[3] * weight.ne[2] + second % weight.ne[2]
                held.sums[matrix] += np.add.reduce(np.square(values[third, second]), axis=0)
        held.counts[:] += rows.ne[1] * rows.ne[2] * rows.ne[3] // matrices
        self._check(name, held)

    def _experts(self, name: str, weight: Any, rows: Any, ids: Any) -> None:
        experts = weight.ne[2]
        held = self._held(name, rows.ne[0], experts, experts)
        chosen = _array(ids, np.int32)[0, 0]  # (tokens, experts for each)
        values = _array(rows, np.float32)[0]  # (tokens, 1 or experts for each, columns)
        for expert in np.unique(chosen):
            token, place = np.nonzero(chosen == expert)
            held.sums[expert] += np.add.reduce(np.square(values[token, place % rows.ne[1]]), axis=0)
            held.counts[expert] += len(token)
        self._check(name, held)

    def _held(self, name: str, columns: int, matrices: int, counts: int) -> Squares:
        new = Squares(sums=np.zeros((matrices, columns), np.float32), counts=np.zeros(counts, np.int64))
        held = self.found.setdefault(name, new)
        if held.sums.shape != new.sums.shape:
            self.problem = self.problem or f"{name} has inputs of {columns} and of {held.sums.shape[1]} values"
            return new
        return held

    def _check(self, name: str, held: Squares) -> None:
        if not np.isfinite(held.sums).all():
            self.problem = self.problem or f"{name} has an input that is not finite"


def calibrate(gguf: Path, texts: Sequence[str], output: Path, *, dataset: str, emit: Emit = silent) -> int:
    """Compute an importance matrix and write it in llama.cpp's GGUF form.

    Args:
        gguf: The model in floats.
        texts: What to evaluate, special tokens as text; one after the other, cut into chunks.
        output: The file to write.
        dataset: What the file says it was computed on.
        emit: Told of every chunk.

    Returns:
        The number of chunks, `MOST_CHUNKS` at most.

    Raises:
        InputInvalid: There are fewer than `LEAST_TOKENS` tokens, or an activation is not finite.
        Unsupported: llama.cpp cannot load or evaluate the model.
    """
    collector = Collector()
    opened = _Model(gguf, collector)  # imports llama_cpp, which turns llama.cpp's log on
    with llama_library().quiet(), opened as model:
        tokens = [token for text in texts for token in model.tokens(text)]
        if len(tokens) < LEAST_TOKENS:
            raise InputInvalid(
                f"{dataset}: {len(tokens)} tokens, and an importance matrix takes {LEAST_TOKENS} at least",
                hint="Give more conversations, or a matrix that is made already: --imatrix FILE.",
            )
        chunks = min(MOST_CHUNKS, len(tokens) // CHUNK_TOKENS)
        for index in range(chunks):
            model.evaluate(tokens[index * CHUNK_TOKENS : (index + 1) * CHUNK_TOKENS])
            if collector.problem:
                raise InputInvalid(f"{gguf.name}: {collector.problem}", hint="The training may have diverged.")
            emit(Advanced(stage="calibrate", done=index + 1, total=chunks, unit="chunks", detail=dataset))
    write_matrix(output, collector.found, dataset=dataset, chunks=chunks)
    return chunks


def write_matrix(output: Path, found: dict[str, Squares], *, dataset: str, chunks: int) -> None:
    """Write sums and counts as llama-imatrix does, tensors in the order of their names."""
    metadata = (
        MetadataEntry(key="general.type", type=ValueType.STRING, value="imatrix"),
        MetadataEntry(key="imatrix.datasets", type=ValueType.ARRAY, value=GgufArray.of(ValueType.STRING, [dataset])),
        MetadataEntry(key="imatrix.chunk_count", type=ValueType.UINT32, value=chunks),
        MetadataEntry(key="imatrix.chunk_size", type=ValueType.UINT32, value=CHUNK_TOKENS),
    )
    arrays: dict[str, NDArray[np.float32]] = {}
    for name, held in sorted(found.items()):
        arrays[f"{name}.in_sum2"] = held.sums.reshape(len(held.counts), -1)
        arrays[f"{name}.counts"] = held.counts.astype(np.float32).reshape(-1, 1)
    listed = [(name, array.shape, GgmlType.F32) for name, array in arrays.items()]
    with disk_errors(output), output.open("wb") as file:
        file.write(header_bytes(metadata, listed))
        for array in arrays.values():
            data = array.tobytes()
            file.write(data + bytes(padded(len(data)) - len(data)))


class _Model:
    """A file on the CPU with the scheduler's callback; use it in a `with` statement.

    It is evaluated in a thread of its own. ctypes drops what is raised inside a callback, and in the main thread that is where
    Ctrl-C nearly always arrives: it would be lost, and with it the rest of the chunk.
    """

    def __init__(self, gguf: Path, collector: Collector) -> None:
        import llama_cpp

        self._library: Any = llama_cpp
        self._gguf = gguf
        self._collector = collector
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="evaluate")
        self._stopped = False
        self._error: Exception | None = None
        # The scheduler holds a bare pointer to it: it must live as long as the context.
        self._callback = llama_cpp.ggml_backend_sched_eval_callback(self._shown)
        self._context: Any = None
        self._model: Any = None

    def __enter__(self) -> _Model:
        library = self._library
        parameters = library.llama_model_default_params()
        parameters.n_gpu_layers = 0
        self._model = library.llama_model_load_from_file(str(self._gguf).encode(), parameters)
        if not self._model:
            raise Unsupported(f"{self._gguf.name}: llama.cpp cannot load it", hint="Pass a matrix with --imatrix FILE.")
        context = library.llama_context_default_params()
        context.n_ctx = context.n_batch = context.n_ubatch = CHUNK_TOKENS
        context.n_threads = context.n_threads_batch = usable_cores()
        context.offload_kqv = context.op_offload = False
        context.cb_eval = self._callback
        self._context = library.llama_init_from_model(self._model, context)
        if not self._context:
            library.llama_model_free(self._model)
            raise Unsupported(f"{self._gguf.name}: llama.cpp cannot evaluate it", hint="Pass --imatrix FILE.")
        self._vocabulary = library.llama_model_get_vocab(self._model)
        self._batch = library.llama_batch_init(CHUNK_TOKENS, 0, 1)
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True)
        self._library.llama_batch_free(self._batch)
        self._library.llama_free(self._context)
        self._library.llama_model_free(self._model)

    def tokens(self, text: str) -> list[int]:
        """Give the ids of a text, special tokens among them, and nothing added."""
        raw = text.encode()
        space = (ctypes.c_int32 * (len(raw) + 1))()
        count = self._library.llama_tokenize(self._vocabulary, raw, len(raw), space, len(space), False, True)
        return list(space[:count])

    def evaluate(self, tokens: Sequence[int]) -> None:
        """Evaluate one chunk in an empty context."""
        library, batch = self._library, self._batch
        library.llama_memory_clear(library.llama_get_memory(self._context), True)
        batch.n_tokens = len(tokens)
        for index, token in enumerate(tokens):
            batch.token[index] = token
            batch.pos[index] = index
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = 0
            batch.logits[index] = True  # without, the last block is evaluated for one position only
        if library.llama_vocab_get_add_bos(self._vocabulary):
            batch.token[0] = library.llama_vocab_bos(self._vocabulary)
        decoding = self._pool.submit(library.llama_decode, self._context, batch)
        try:
            status = decoding.result()
        except BaseException:
            self._stopped = True
            wait([decoding])
            raise
        if self._error is not None:
            raise self._error
        if status != 0:
            raise Unsupported(f"{self._gguf.name}: llama.cpp cannot evaluate it", hint="Pass --imatrix FILE.")

    def _shown(self, tensor: Any, ask: bool, _: object) -> bool:
        """Answer the scheduler; after the first error, or once stopped, it computes nothing more of the chunk."""
        if self._stopped:
            return bool(ask)
        try:
            return self._collector.see(ctypes.cast(tensor, ctypes.POINTER(_Tensor)).contents, bool(ask))
        except Exception as error:  # noqa: BLE001  # it is raised by `evaluate`: nothing may leave a callback
            self._error, self._stopped = error, True
            return False


def _plain_name(name: bytes) -> str:
    """Strip what the scheduler puts around a copied tensor's name: `CUDA0#blk.0.attn_k.weight#0`."""
    parts = name.decode("utf-8", "replace").split("#")
    return parts[1] if len(parts) > 1 else parts[0]


def _array(tensor: Any, dtype: type[np.float32] | type[np.int32]) -> NDArray[Any]:
    """Give a tensor of the host's memory as an array of four dimensions, the fastest last."""
    strides = tuple(reversed(list(tensor.nb)))
    shape = tuple(reversed(list(tensor.ne)))
    size = sum((count - 1) * step for count, step in zip(shape, strides, strict=True)) + np.dtype(dtype).itemsize
    buffer = (ctypes.c_char * size).from_address(tensor.data)
    return np.ndarray(shape, dtype=dtype, buffer=buffer, strides=strides)
