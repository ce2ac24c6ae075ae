"""llama.cpp's own functions, by ctypes: its kernels, its choice of tensor types, its log switched off.

The libraries are those of the installed llama-cpp-python. The functions that choose tensor types are C++ and have no C header,
so they are found by their mangled names, which GCC and Clang share on Linux and macOS.

Source:
    llama.cpp `src/llama-ext.h`, `ggml/include/ggml.h`, as vendored by llama-cpp-python 0.3.36.
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from packager.errors import ToolMissing

_MODEL_FROM_METADATA = "_Z31llama_quant_model_from_metadataPK22llama_quant_model_desc"
_QUANT_INIT = "_Z16llama_quant_initPK11llama_modelPK27llama_model_quantize_params"
_ALLOWS = "_Z38llama_quant_tensor_allows_quantizationPK19quantize_state_implPK11ggml_tensor"
_COMPUTE_TYPES = "_Z25llama_quant_compute_typesP19quantize_state_impl11llama_ftypePP11ggml_tensorP9ggml_typem"
_QUANT_FREE = "_Z16llama_quant_freeP19quantize_state_impl"

_LOG_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


class ModelDescription(ctypes.Structure):
    """`llama_quant_model_desc`: what the choice of types depends on besides the tensors."""

    _fields_ = (
        ("architecture", ctypes.c_char_p),
        ("n_embd", ctypes.c_uint32),
        ("n_ff", ctypes.c_uint32),
        ("n_layer", ctypes.c_uint32),
        ("n_head", ctypes.c_uint32),
        ("n_head_kv", ctypes.c_uint32),
        ("n_expert", ctypes.c_uint32),
        ("n_embd_head_k", ctypes.c_uint32),
        ("n_embd_head_v", ctypes.c_uint32),
    )


class QuantizeParameters(ctypes.Structure):
    """`llama_model_quantize_params` of llama.h; only ever filled by `llama_model_quantize_default_params`."""

    _fields_ = (
        ("nthread", ctypes.c_int32),
        ("ftype", ctypes.c_int),
        ("output_tensor_type", ctypes.c_int),
        ("token_embedding_type", ctypes.c_int),
        ("allow_requantize", ctypes.c_bool),
        ("quantize_output_tensor", ctypes.c_bool),
        ("only_copy", ctypes.c_bool),
        ("pure", ctypes.c_bool),
        ("keep_split", ctypes.c_bool),
        ("dry_run", ctypes.c_bool),
        ("imatrix", ctypes.c_void_p),
        ("kv_overrides", ctypes.c_void_p),
        ("tt_overrides", ctypes.c_void_p),
        ("prune_layers", ctypes.c_void_p),
        ("max_buf_size", ctypes.c_size_t),
    )


class TypeTraits(ctypes.Structure):
    """`ggml_type_traits`: how a type lies in memory, and what makes float32 of it (null where nothing does)."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
        ("from_float_ref", ctypes.c_void_p),
    )


class InitParameters(ctypes.Structure):
    """`ggml_init_params`: an arena for tensors that have a shape and no data."""

    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


class LlamaLibrary:
    """The functions of libllama and libggml-base that a build needs, with their types declared.

    Every attribute is named for the C function it is. Calls release the GIL.
    """

    def __init__(self, llama: ctypes.CDLL, ggml: ctypes.CDLL) -> None:
        pointer, size = ctypes.c_void_p, ctypes.c_size_t
        self.quantize_chunk = _declare(
            ggml,
            "ggml_quantize_chunk",
            size,
            ctypes.c_int,
            pointer,
            pointer,
            *[ctypes.c_int64] * 3,
            pointer,
        )
        self.validate_row_data = _declare(ggml, "ggml_validate_row_data", ctypes.c_bool, ctypes.c_int, pointer, size)
        self.type_traits = _declare(ggml, "ggml_get_type_traits", ctypes.POINTER(TypeTraits), ctypes.c_int)
        self.needs_importance = _declare(ggml, "ggml_quantize_requires_imatrix", ctypes.c_bool, ctypes.c_int)
        self.ggml_init = _declare(ggml, "ggml_init", pointer, InitParameters)
        self.ggml_free = _declare(ggml, "ggml_free", None, pointer)
        self.tensor_overhead = _declare(ggml, "ggml_tensor_overhead", size)
        self.op_name = _declare(ggml, "ggml_op_name", ctypes.c_char_p, ctypes.c_int)
        dimensions = ctypes.POINTER(ctypes.c_int64)
        self.new_tensor = _declare(ggml, "ggml_new_tensor", pointer, pointer, ctypes.c_int, ctypes.c_int, dimensions)
        self.set_name = _declare(ggml, "ggml_set_name", pointer, pointer, ctypes.c_char_p)
        self.default_parameters = _declare(llama, "llama_model_quantize_default_params", QuantizeParameters)
        self.model_from_metadata = _declare(llama, _MODEL_FROM_METADATA, pointer, ctypes.POINTER(ModelDescription))
        self.model_free = _declare(llama, "llama_model_free", None, pointer)
        self.quant_init = _declare(llama, _QUANT_INIT, pointer, pointer, ctypes.POINTER(QuantizeParameters))
        self.quant_free = _declare(llama, _QUANT_FREE, None, pointer)
        self.allows_quantization = _declare(llama, _ALLOWS, ctypes.c_bool, pointer, pointer)
        self.compute_types = _declare(
            llama,
            _COMPUTE_TYPES,
            None,
            pointer,
            ctypes.c_int,
            ctypes.POINTER(pointer),
            ctypes.POINTER(ctypes.c_int),
            size,
        )
        self.log_get = _declare(llama, "llama_log_get", None, ctypes.POINTER(pointer), ctypes.POINTER(pointer))
        self.log_set = _declare(llama, "llama_log_set", None, pointer, pointer)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Drop llama.cpp's log lines; what received them before receives them again afterwards."""
        callback, data = ctypes.c_void_p(), ctypes.c_void_p()
        self.log_get(ctypes.byref(callback), ctypes.byref(data))
        self.log_set(ctypes.cast(_drop_log, ctypes.c_void_p), None)
        try:
            yield
        finally:
            self.log_set(callback, data)


@cache
def llama_library() -> LlamaLibrary:
    """Load the installed libraries once.

    Raises:
        ToolMissing: llama-cpp-python is not installed, or a library or function of it is missing.
    """
    try:
        spec = importlib.util.find_spec("llama_cpp")
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        raise ToolMissing("llama-cpp-python is not installed", hint="Install it: pip install 'ollama-packager[build]'")
    folder = Path(spec.origin).parent / "lib"
    try:
        return LlamaLibrary(_load(folder, "llama"), _load(folder, "ggml-base"))
    except (OSError, AttributeError) as error:
        hint = "Install the pinned version again: pip install --force-reinstall 'ollama-packager[build]'"
        raise ToolMissing(f"{folder}: {error}", hint=hint) from error


def _ignore(level: int, text: bytes, data: int) -> None:
    """Receive a log line and do nothing."""


_drop_log = _LOG_CALLBACK(_ignore)  # module level: llama.cpp may call it for as long as the process lives


def _load(folder: Path, name: str) -> ctypes.CDLL:
    names = (f"{name}.dll", f"lib{name}.dll") if sys.platform == "win32" else (f"lib{name}.dylib", f"lib{name}.so")
    for candidate in names:
        if (folder / candidate).is_file():
            return ctypes.CDLL(str(folder / candidate))
    raise OSError(f"none of {', '.join(names)} is here")


def _declare(library: ctypes.CDLL, name: str, result: type | None, *arguments: type) -> ctypes._NamedFuncPointer:
    function = getattr(library, name)
    function.restype = result
    function.argtypes = arguments
    return function  # type: ignore[no-any-return]
