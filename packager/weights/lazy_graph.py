"""The converter's lazy tensors read as a graph of `row_graph`: which operations are understood, and how that is made sure.

Operations that move elements without a copy are not known one by one: each is run on a tensor without data, whose strides
are chosen so that the strides and offset of the result say which element went where. What is not understood, or looks
different from what is expected in any way, is computed whole, which is always right.

Source:
    llama.cpp `gguf-py/gguf/lazy.py` (`LazyBase._wrap_fn`), `conversion/base.py` (`LazyTorchTensor`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from packager.weights.boxes import Shape
from packager.weights.merged import MergedTensors
from packager.weights.row_graph import Axis, Constant, Elementwise, Joined, Node, Reshaped, Stored, Viewed, Whole
from packager.weights.slabs import SlabCache
from packager.weights.strides import digits, telling_strides, view_axis

_RESHAPES = {"reshape", "reshape_as", "view", "view_as", "flatten", "unflatten", "ravel", "contiguous", "clone"}
_VIEWS = {"permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "T", "mT", "t", "squeeze", "unsqueeze"}
_VIEWS |= {"narrow", "select", "split", "chunk", "unbind", "tensor_split", "__getitem__"}
_JOINS = {"cat", "concat", "concatenate"}
# Rounded once for each element, so that neither its place nor its neighbours can change a bit.
_ELEMENTWISE = {"to", "float", "half", "double", "type", "add", "sub", "mul", "div", "neg", "__add__", "__radd__"}
_ELEMENTWISE |= {"__sub__", "__rsub__", "__mul__", "__rmul__", "__truediv__", "__neg__"}
_ARRAY_STEPS = ("LazyNumpyTensor.astype.<locals>.<lambda>", "LazyTorchTensor.numpy.<locals>.<lambda>")


class StoredTensor:
    """What a lazy tensor that is a merged tensor as it is has as its argument."""

    def __init__(self, merged: MergedTensors, name: str) -> None:
        self.merged = merged
        self.name = name

    def whole(self) -> torch.Tensor:
        """Read all of it, in its own shape."""
        return self.merged.whole(self.name)


def renamed(lazy: Any) -> str | None:
    """Give the merged tensor that a lazy array is an unchanged view of, None when anything was done to it."""
    for step in _ARRAY_STEPS:
        function = getattr(lazy, "_func", None)
        if getattr(function, "__qualname__", "") != step:
            return None
        lazy = lazy._args[0]
    stored = _stored(lazy)
    return None if stored is None else stored.name


def lazy_graph(lazy: Any, evaluate: Callable[[Any], torch.Tensor], cache: SlabCache) -> Node:
    """Give the graph of a lazy array, as float32.

    Args:
        lazy: A LazyNumpyTensor as the converter gives it to its writer.
        evaluate: Computes a lazy tensor whole.
        cache: Where what is computed whole is kept.
    """
    compiler = _Compiler(evaluate, cache)
    for step in _ARRAY_STEPS:
        if getattr(getattr(lazy, "_func", None), "__qualname__", "") != step:
            return _as_float32(compiler.whole(lazy))
        lazy = lazy._args[0]
    return _as_float32(compiler.node(lazy))


def whole_parts(node: Node) -> tuple[Whole, ...]:
    """Give every part of a graph that has to be computed whole."""
    match node:
        case Whole():
            return (node,)
        case Reshaped(inner=inner) | Viewed(inner=inner):
            return whole_parts(inner)
        case Joined(parts=parts) | Elementwise(parts=parts):
            return tuple(found for part in parts for found in whole_parts(part))
    return ()


@dataclass(frozen=True, kw_only=True)
class _Call:
    """One operation of the graph: `item` is which tensor of a tuple is meant."""

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    item: int | None = None


class _Compiler:
    """Turns lazy tensors into nodes; what two of them share is one node."""

    def __init__(self, evaluate: Callable[[Any], torch.Tensor], cache: SlabCache) -> None:
        self._evaluate = evaluate
        self._cache = cache
        self._known: dict[int, Node] = {}

    def node(self, lazy: Any) -> Node:
        if id(lazy) not in self._known:
            self._known[id(lazy)] = self._understood(lazy) or self.whole(lazy)
        return self._known[id(lazy)]

    def whole(self, lazy: Any) -> Node:
        evaluate = self._evaluate
        return Whole(_shape(lazy), lambda: torch.as_tensor(evaluate(lazy)), self._cache)

    def _understood(self, lazy: Any) -> Node | None:
        if isinstance(lazy, torch.Tensor):
            return Constant(lazy)
        if not hasattr(lazy, "_meta") or math.prod(_shape(lazy)) == 0:
            return None
        if isinstance(lazy._data, torch.Tensor):
            return Constant(lazy._data)
        stored = _stored(lazy)
        if stored is not None:
            return Stored(stored.merged, stored.name)
        call = _call(lazy)
        found = None if call is None else self._operation(call, _shape(lazy), lazy._meta.dtype)
        return found if found is not None and found.shape == _shape(lazy) else None

    def _operation(self, call: _Call, shape: Shape, dtype: torch.dtype) -> Node | None:
        if call.name in _JOINS or call.name == "stack":
            return self._joined(call, shape)
        if call.name in _ELEMENTWISE:
            return self._elementwise(call, shape)
        first, *rest = call.args or (None,)
        if not _is_tensor(first) or first.dtype != dtype:  # `view` can also read the bytes as another type
            return None
        if call.name in _RESHAPES:
            return Reshaped(self.node(first), shape)
        if call.name not in _VIEWS or any(_holds_tensor(item) for item in (*rest, *call.kwargs.values())):
            return None
        return self._viewed(call, shape)

    def _joined(self, call: _Call, shape: Shape) -> Node | None:
        tensors = call.args[0] if call.args else None
        dimension = call.args[1] if len(call.args) > 1 else call.kwargs.get("dim", 0)
        if set(call.kwargs) - {"dim"} or not isinstance(tensors, list | tuple) or not isinstance(dimension, int):
            return None
        if not all(_is_tensor(tensor) and math.prod(_shape(tensor)) for tensor in tensors):
            return None
        if len({tensor.dtype for tensor in tensors}) != 1:
            return None
        dimension %= len(shape)
        parts = tuple(self.node(tensor) for tensor in tensors)
        if call.name == "stack":
            parts = tuple(Reshaped(part, (*shape[:dimension], 1, *shape[dimension + 1 :])) for part in parts)
        return Joined(parts, dimension, shape)

    def _elementwise(self, call: _Call, shape: Shape) -> Node | None:
        if set(call.kwargs) - {"dtype", "copy"}:
            return None
        places = [number for number, item in enumerate(call.args) if _is_tensor(item)]
        if not places or any(_holds_tensor(item) and not _is_tensor(item) for item in call.args):
            return None
        parts = tuple(self.node(call.args[number]) for number in places)
        if any(not _broadcasts(part.shape, shape) for part in parts):
            return None

        def compute(found: list[torch.Tensor]) -> torch.Tensor:
            args = list(call.args)
            for number, tensor in zip(places, found, strict=True):
                args[number] = tensor
            result: torch.Tensor = call.function(*args, **call.kwargs)
            return result

        return Elementwise(compute, parts, shape)

    def _viewed(self, call: _Call, shape: Shape) -> Node | None:
        before = _shape(call.args[0])
        strides = telling_strides(before)
        probe = torch.empty_strided(before, strides, dtype=call.args[0].dtype, device="meta")
        rest = map(_sliced, call.args[1:]) if call.name == "__getitem__" else call.args[1:]
        result = call.function(probe, *rest, **call.kwargs)
        if call.item is not None:
            result = result[call.item]
        same_memory = result.untyped_storage()._cdata == probe.untyped_storage()._cdata
        if not same_memory or tuple(result.shape) != shape:
            return None
        origin = digits(result.storage_offset(), strides)
        axes = tuple(
            Axis(source=None) if size == 1 else view_axis(stride, strides, origin)
            for size, stride in zip(result.shape, result.stride(), strict=True)
        )
        used = [axis.source for axis in axes if axis.source is not None]
        if len(used) != len(set(used)) or any(
            size > 1 and (axis.source is None or axis.first + (size - 1) * axis.step >= before[axis.source])
            for axis, size in zip(axes, shape, strict=True)
        ):
            return None
        return Viewed(self.node(call.args[0]), shape, axes, origin)


def _call(lazy: Any) -> _Call | None:
    function, args, item = lazy._func, lazy._args, None
    name = getattr(function, "__qualname__", "")
    if name.endswith("._wrap_fn.<locals>.wrapped_fn.<locals>.eager_tuple_element"):
        (args, _), item = args
        function = _closure(function).get("fn")
        name = getattr(function, "__qualname__", "")
    if name.endswith("LazyMeta.__new__.<locals>.__getattr__.<locals>.<lambda>"):
        short = _closure(function).get("name")
    else:
        short = getattr(function, "__name__", None)
    if not isinstance(short, str) or not callable(function):
        return None
    return _Call(name=short, function=function, args=tuple(args), kwargs=dict(lazy._kwargs), item=item)


def _closure(function: Any) -> dict[str, object]:
    cells = function.__closure__ or ()
    return {name: cell.cell_contents for name, cell in zip(function.__code__.co_freevars, cells, strict=True)}


def _stored(lazy: Any) -> StoredTensor | None:
    args: tuple[object, ...] = getattr(lazy, "_args", ())
    return args[0] if len(args) == 1 and isinstance(args[0], StoredTensor) else None


def _as_float32(node: Node) -> Node:
    return Elementwise(lambda found: found[0].to(torch.float32), (node,), node.shape)


def _shape(lazy: Any) -> Shape:
    return tuple(int(size) for size in lazy.shape)


def _is_tensor(item: Any) -> bool:
    return isinstance(item, torch.Tensor) or hasattr(item, "_meta")


def _holds_tensor(item: Any) -> bool:
    if isinstance(item, list | tuple):
        return any(_holds_tensor(part) for part in item)
    return _is_tensor(item)


def _broadcasts(shape: Shape, result: Shape) -> bool:
    tail = result[len(result) - len(shape) :]
    return len(shape) <= len(result) and all(size in (1, other) for size, other in zip(shape, tail, strict=True))


def _sliced(index: Any) -> Any:
    """Give an index in which `[n]` is the slice of length 1 that it selects, which is a view; Falcon's q, k, v need it."""
    if isinstance(index, tuple):
        return tuple(map(_sliced, index))
    if isinstance(index, list) and len(index) == 1 and type(index[0]) is int:
        return slice(index[0], index[0] + 1 or None)
    return index
