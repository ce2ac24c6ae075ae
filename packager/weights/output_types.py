"""The type of every tensor in every output, floats by llama.cpp's converter and quantized ones by its quantizer."""

from __future__ import annotations

from packager.artifacts import Quant
from packager.formats.gguf import GgmlType
from packager.quants import FLOATS
from packager.weights.converter import Conversion
from packager.weights.importance import Importance
from packager.weights.tensor_types import quant_types, require_importance


def output_types(
    conversion: Conversion, quants: tuple[Quant, ...], importance: Importance | None
) -> dict[Quant, dict[str, GgmlType]]:
    """Give the types of every tensor for each quant.

    Args:
        conversion: The model.
        quants: The outputs.
        importance: The importance matrix, checked against this model; None without one.

    Raises:
        Usage: A type needs an importance matrix, and there is none.
        Unsupported: llama.cpp cannot write the model in that type.
    """
    return {quant: _types(conversion, quant, importance) for quant in quants}


def _types(conversion: Conversion, quant: Quant, importance: Importance | None) -> dict[str, GgmlType]:
    if quant in FLOATS:
        return conversion.float_types(quant)
    listed = [(tensor.name, tensor.shape, tensor.f32_type) for tensor in conversion.tensors]
    types = quant_types(conversion.facts, listed, quant, importance=importance is not None)
    require_importance(types, quant, frozenset() if importance is None else importance.names)
    return types
