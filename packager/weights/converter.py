"""llama.cpp's converter driven as a library: base and adapter in, GGUF tensors and metadata out, nothing written.

The architecture's own class decides names, shapes, permutations, float types and metadata. It is given lazy tensors that
read `MergedTensors`, so that what it maps is base + adapter in float32. A tensor it only renames is recognised and stays
readable row block by row block; what is permuted, split, stacked or fused is a graph (`lazy_graph`) of which any rows can be
computed, and only what is not understood there is evaluated whole.

What differs from `convert_hf_to_gguf.py --outtype f16` on the same folder, and why:
    general.name: the caller's, when given: the folder's name is an accident.
    general.basename, general.finetune, general.version, general.size_label: never guessed from the folder's name, for the same
        reason; the model card, `_name_or_path` and the number of parameters still give them.
    tokenizer.chat_template: the canonical template, when given; named alternatives of it are dropped.
    tokenizer.ggml.add_bos_token: whether the canonical token ids start with BOS, when a template is given.
    A tensor of one row (Qwen2-MoE's shared_expert_gate): a vector, as llama.cpp's own quantizer writes it.
    general.quantization_version, general.file_type: last, where llama.cpp's own quantizer puts them.

Source:
    llama.cpp `conversion/base.py` (`ModelBase.prepare_tensors`, `prepare_metadata`), `gguf-py/gguf/metadata.py`, `lazy.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from packager.artifacts import Adapter, Checkpoint, Quant
from packager.errors import InputInvalid, Unsupported
from packager.formats.fine_tuned import changed_config, tokenizer_folder
from packager.formats.gguf import GgmlType, MetadataEntry
from packager.sources.llama_cpp_tree import LlamaCppTree
from packager.weights.converter_modules import converter_modules, model_class
from packager.weights.gguf_metadata import metadata_entry
from packager.weights.lazy_graph import StoredTensor, lazy_graph, renamed
from packager.weights.merged import MergedTensors
from packager.weights.row_graph import Node
from packager.weights.slabs import SlabCache
from packager.weights.tensor_types import ModelFacts, llama_order


@dataclass(frozen=True, kw_only=True)
class ConvertedTensor:
    """One GGUF tensor before quantization.

    Attributes:
        name: Its GGUF name.
        shape: Rows first.
        f16_type: Its type in an f16 file.
        f32_type: Its type in the f32 file that the quants are made from.
        source: The merged tensor whose rows it has, unchanged and in order; None when it has to be computed.
        graph: How it is computed, float32.
        cache: Where parts of it may be kept while it is computed.
    """

    name: str
    shape: tuple[int, ...]
    f16_type: GgmlType
    f32_type: GgmlType
    source: str | None
    graph: Node
    cache: SlabCache


class Conversion:
    """One model in the converter: `tensors` is known at once, `metadata()` reads the tokenizer and takes longer.

    Args:
        base: The checkpoint; its config and tokenizer are read from its folder.
        merged: The tensors to map; must stay open while tensors are evaluated.
        tree: The converter.

    Raises:
        Unsupported: The converter does not know the architecture, or gives a tensor a type that is not handled.
        InputInvalid: The converter refuses the checkpoint.
    """

    def __init__(self, base: Checkpoint, merged: MergedTensors, tree: LlamaCppTree) -> None:
        self._base = base
        self._adapter = merged.adapter
        self._tree = tree
        with converter_modules(tree) as gguf:
            self._made = made = _model_class(base, merged)
            with _translated(base):
                f32 = _instance(made, base, merged.adapter, gguf.LlamaFileType.ALL_F32)
                self._model = _instance(made, base, merged.adapter, gguf.LlamaFileType.MOSTLY_F16)
                f32.prepare_tensors()
                self._model.prepare_tensors()
                f32.set_gguf_parameters()
        self.facts = _facts(f32.gguf_writer)
        self.cache = SlabCache()
        self.tensors = _paired(base, f32.gguf_writer.tensors[0], self._model.gguf_writer.tensors[0], self.cache)
        _refuse_lost_output(base, merged.adapter, self.tensors)

    def float_types(self, quant: Quant) -> dict[str, GgmlType]:
        """Give the type of every tensor in a file of floats: f32, f16 or bf16."""
        if quant is not Quant.BF16:
            return {each.name: each.f16_type if quant is Quant.F16 else each.f32_type for each in self.tensors}
        with converter_modules(self._tree) as gguf, _translated(self._base):
            bf16 = _instance(self._made, self._base, self._adapter, gguf.LlamaFileType.MOSTLY_BF16)
            bf16.prepare_tensors()
        listed = bf16.gguf_writer.tensors[0]
        return {each.name: _float_type(self._base, each.name, listed[each.name].dtype) for each in self.tensors}

    def metadata(self, name: str) -> tuple[MetadataEntry, ...]:
        """Read config, tokenizer and model card into GGUF metadata, in the converter's order.

        Args:
            name: What general.name says; empty leaves what the checkpoint says of itself.
        """
        with converter_modules(self._tree), _translated(self._base):
            self._model.model_name = name or None
            self._model.dir_model_card = _Unnamed(self._base.folder)
            self._model.prepare_metadata(vocab_only=False)
            if not self._model.metadata.name:
                self._model.gguf_writer.add_name(self._base.architecture)
            return tuple(metadata_entry(key, value) for key, value in self._model.gguf_writer.kv_data[0].items())


class _Unnamed(type(Path())):  # type: ignore[misc]  # the platform's own path class
    """The model's folder without its name, from which the converter would guess what the model is called."""

    __slots__ = ()

    @property
    def name(self) -> str:
        return ""


@contextmanager
def _translated(base: Checkpoint) -> Iterator[None]:
    """Turn what the converter raises about a checkpoint into an error of this program."""
    try:
        yield
    except NotImplementedError as error:
        raise Unsupported(f"{base.folder}: llama.cpp's converter: {_first_line(error)}") from error
    except (
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        AssertionError,
        IndexError,
        OSError,
        RuntimeError,
    ) as error:
        raise InputInvalid(f"{base.folder}: llama.cpp's converter: {_first_line(error)}") from error
    except Exception as error:
        if type(error) is not Exception:  # what the tokenizers library raises for a file it cannot read
            raise
        raise InputInvalid(f"{base.folder}: the tokenizer cannot be read ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return f"missing {text}" if isinstance(error, KeyError) else text.splitlines()[0]


def _model_class(base: Checkpoint, merged: MergedTensors) -> Any:
    def index(model: Any) -> dict[str, Callable[[], Any]]:
        tensors = {}
        for entry in merged.entries:
            item = model.filter_tensors((entry.name, _supplier(merged, entry.name)))
            if item is not None:
                tensors[item[0]] = item[1]
        return tensors

    try:
        with _translated(base):
            return model_class(base.folder, index, tokenizer=tokenizer_folder(base, merged.adapter))
    except Unsupported as error:
        hint = "Pass --llama-cpp DIR with a newer llama.cpp, or use another base."
        raise Unsupported(f"{base.folder}: llama.cpp does not know {base.architecture}", hint=hint) from error


def _facts(writer: Any) -> ModelFacts:
    values = {key: found.value for key, found in writer.kv_data[0].items()}
    architecture = str(values["general.architecture"])

    def number(key: str, default: int = 0) -> int:
        found = values.get(f"{architecture}.{key}", default)
        return int(found[0]) if isinstance(found, list | tuple) else int(found)

    heads = number("attention.head_count")
    return ModelFacts(
        architecture=architecture,
        embedding=number("embedding_length"),
        feed_forward=number("feed_forward_length"),
        layers=number("block_count"),
        heads=heads,
        heads_kv=number("attention.head_count_kv", heads),
        experts=number("expert_count"),
        head_k=number("attention.key_length"),
        head_v=number("attention.value_length"),
    )


def _supplier(merged: MergedTensors, name: str) -> Callable[[], Any]:
    lazy_class = sys.modules["conversion"].LazyTorchTensor
    meta = lazy_class.meta_with_dtype_and_shape(merged.dtype(name), merged.shape(name))
    return lambda: lazy_class(meta=meta, args=(StoredTensor(merged, name),), func=lambda stored: stored.whole())


def _instance(made: Any, base: Checkpoint, adapter: Adapter | None, file_type: Any) -> Any:
    hparams = None
    if adapter is not None and (adapter.output_layer is not None or adapter.vocab_size is not None):
        hparams = changed_config(made.load_hparams(base.folder, made.is_mistral_format), base, adapter)
    with torch.inference_mode():
        return made(base.folder, file_type, Path("model.gguf"), hparams=hparams)


def _refuse_lost_output(base: Checkpoint, adapter: Adapter | None, tensors: tuple[ConvertedTensor, ...]) -> None:
    """Refuse an output layer that the adapter unties and that llama.cpp does not read, as in Gemma's architectures."""
    if adapter is None or adapter.output_layer is None or any(tensor.name == "output.weight" for tensor in tensors):
        return
    raise Unsupported(
        f"{adapter.folder}: unties {adapter.output_layer.name} from the embedding, and llama.cpp has no output layer of its "
        f"own for {base.architecture}",
        hint="Train without the embedding and the output layer, or with ensure_weight_tying.",
    )


def _paired(
    base: Checkpoint, f32: dict[str, Any], f16: dict[str, Any], cache: SlabCache
) -> tuple[ConvertedTensor, ...]:
    tensors = []
    for name in sorted(f32, key=llama_order):
        wide, half = f32[name], f16[name]
        tensors.append(
            ConvertedTensor(
                name=name,
                shape=_counted(tuple(int(size) for size in wide.shape)),
                f16_type=_float_type(base, name, half.dtype),
                f32_type=_float_type(base, name, wide.dtype),
                source=renamed(wide.tensor),
                graph=lazy_graph(wide.tensor, _evaluated, cache),
                cache=cache,
            )
        )
        wide.tensor = half.tensor = None  # lazy tensors keep what they computed; nothing may hold on to them
    return tuple(tensors)


def _counted(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Give the dimensions that ggml counts (`ggml_n_dims`): a matrix of one row is a vector."""
    return _counted(shape[1:]) if len(shape) > 1 and shape[0] == 1 else shape


def _float_type(base: Checkpoint, name: str, number: int) -> GgmlType:
    if int(number) not in (GgmlType.F32, GgmlType.F16, GgmlType.BF16):
        raise Unsupported(
            f"{base.folder}: llama.cpp converts {name} to type {int(number)}, not to a float",
            hint="Use a base that is stored in 16 or 32 bits.",
        )
    return GgmlType(int(number))


def _evaluated(item: Any) -> Any:
    """Compute a lazy array without leaving results behind in its graph, as `LazyBase.to_eager` would."""
    if isinstance(item, list | tuple):
        return type(item)(_evaluated(part) for part in item)
    if hasattr(item, "_chunks"):  # a LazyChunkedTensor, in parts along its first dimension
        return np.concatenate([chunk() for chunk in item._chunks]).reshape(item.shape)
    if not hasattr(item, "_meta"):
        return item
    if item._data is not None:
        kept = item._data  # an operation in place must not change it
        return kept.copy() if isinstance(kept, np.ndarray) else kept.clone()
    return item._func(*_evaluated(item._args), **item._kwargs)
