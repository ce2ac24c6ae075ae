"""A GGUF file as a file: the bytes that were recorded, whole, of the type it says, with the build's template.

Nothing is evaluated, so a damaged or mistaken file is named before a model is loaded from it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from packager.artifacts import ChatTemplate, Check, Checkpoint, Gguf, Measure, Outcome, Quant
from packager.durable import sha256_file
from packager.errors import InputInvalid
from packager.formats.gguf import GgmlType, GgufHeader, read_gguf
from packager.parity.differences import text_difference
from packager.quants import FILE_TYPES, FLOATS, MAY_BE_Q8_0

# llama.cpp include/llama.h, enum llama_ftype
_WHOLE = frozenset({GgmlType.F32, GgmlType.F16, GgmlType.BF16})
# Architectures whose converter writes every weight once, and no other.
_ONE_TO_ONE = frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"})
_COMPUTED = re.compile(r"rope_freqs\.weight|rope_factors_.*")  # constants of the architecture, in no checkpoint


@dataclass(frozen=True, kw_only=True)
class Structure:
    """The line of the verdict, and whether the file is whole, so that llama.cpp may be given it."""

    check: Check
    whole: bool


def check_structure(gguf: Gguf, *, base: Checkpoint, template: ChatTemplate) -> Structure:
    """Read a file's digest and header and compare them with what they should be.

    Args:
        gguf: The file and what was recorded of it.
        base: What it was made from: the number of blocks and of weights.
        template: The file must hold exactly the canonical text, or that of the form written anew.

    Returns:
        Passed, or failed with the first fault: digest, header, type, name, template, blocks, weights, in this order.
    """
    fault, header = _damage(gguf)
    if header is not None:
        faults = (
            _type_fault(gguf, header),
            _name_fault(gguf),
            _template_fault(header, template),
            block_fault(header, base),
            weight_fault(header, base),
        )
        fault = next((fault for fault in faults if fault), "")
    tensors = len(header.tensors) if header is not None else 0
    check = Check(
        subject=gguf.quant.value,
        engine="file",
        name="structure",
        outcome=Outcome.FAILED if fault else Outcome.PASSED,
        detail=fault or f"{tensors} tensors, {gguf.size_bytes} bytes, sha256 {gguf.sha256[:12]}…",
        measures=(Measure(name="tensors", value=float(tensors), unit="tensors"),),
    )
    return Structure(check=check, whole=header is not None)


def _damage(gguf: Gguf) -> tuple[str, GgufHeader | None]:
    try:
        sha256 = sha256_file(gguf.path, stage="verify")
        if sha256 != gguf.sha256:
            return f"sha256 is {sha256}, recorded was {gguf.sha256}", None
        return "", read_gguf(gguf.path)
    except InputInvalid as error:
        return error.message.removeprefix(f"{gguf.path}: "), None


def _type_fault(gguf: Gguf, header: GgufHeader) -> str:
    number = header.value("general.file_type")
    if number != FILE_TYPES[gguf.quant]:
        return f"general.file_type is {number}; {gguf.quant.value} is {FILE_TYPES[gguf.quant]}"
    packed = {tensor.type for tensor in header.tensors} - _WHOLE
    allowed = {Quant.Q8_0: {GgmlType.Q8_0}}.get(gguf.quant) if gguf.quant not in FLOATS else set[GgmlType]()
    if allowed is not None and packed != allowed:
        names = ", ".join(sorted(kind.name for kind in packed)) or "no quantized tensor"
        return f"the file says {gguf.quant.value} and holds {names}"
    if gguf.quant not in (*FLOATS, *MAY_BE_Q8_0) and not packed - {GgmlType.Q8_0}:
        return f"the file says {gguf.quant.value} and holds no tensor below 8 bits"
    return ""


def _name_fault(gguf: Gguf) -> str:
    """Find a name that promises another type than the file has: people choose by the name."""
    promised = [quant for quant in Quant if gguf.path.stem.lower().endswith(f"-{quant.value}")]
    return f"{gguf.path.name} holds {gguf.quant.value}" if promised not in ([], [gguf.quant]) else ""


def _template_fault(header: GgufHeader, template: ChatTemplate) -> str:
    found = header.value("tokenizer.chat_template")
    if not isinstance(found, str):
        return "there is no chat template in it"
    if found in [each.text for each in template.for_gguf]:
        return ""
    return f"its chat template is not the build's: {text_difference(template.text, found)}"


def block_fault(header: GgufHeader, base: Checkpoint) -> str:
    """Say how the number of blocks differs from the base's, empty when it does not or cannot be told."""
    count = header.value(f"{header.value('general.architecture')}.block_count")
    blocks = {int(match[1]) for tensor in header.tensors if (match := re.match(r"blk\.(\d+)\.", tensor.name))}
    if base.architecture in _ONE_TO_ONE and (count != base.layers or blocks != set(range(base.layers))):
        return f"{len(blocks)} blocks, block_count {count}; the base has {base.layers}"
    return ""


def weight_fault(header: GgufHeader, base: Checkpoint) -> str:
    """Count weights, which the converter may reorder but, for these architectures, neither drops nor adds."""
    if base.architecture not in _ONE_TO_ONE:
        return ""
    untied = any(tensor.name == "output.weight" for tensor in header.tensors)
    found = sum(math.prod(t.shape) for t in header.tensors if not _COMPUTED.fullmatch(t.name))
    expected = sum(
        math.prod(entry.shape)
        for entry in base.tensors
        if not entry.name.endswith(".inv_freq") and (untied or entry.name != "lm_head.weight")
    )
    if untied and not any(entry.name == "lm_head.weight" for entry in base.tensors):
        expected += next((math.prod(e.shape) for e in base.tensors if e.name.endswith("embed_tokens.weight")), 0)
    return "" if found == expected else f"{found} weights; the base has {expected}"
