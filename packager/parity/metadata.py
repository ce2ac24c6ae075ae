"""The metadata of a GGUF file against what llama.cpp's converter writes for the same base, key by key, in words.

A file may have every tensor right and still compute something else: another rope base, another number of heads, a tokenizer
with a changed merge. What only says where a file comes from is left out, and so is the chat template, a stage of its own.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from packager.formats.gguf import GgufArray, GgufHeader, MetadataEntry, Scalar, ValueType

_PROVENANCE = ("general.", "quantize.", "split.")
_TEMPLATES = "tokenizer.chat_template"
_ENDS = ("tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token", "tokenizer.ggml.add_sep_token")
_SHOWN = 60


@dataclass(frozen=True, kw_only=True)
class KeyDifference:
    """One key that differs: `text` has its name and both values."""

    key: str
    text: str

    @property
    def is_tokenizer(self) -> bool:
        """Whether it decides which tokens a text becomes, rather than what is computed from them."""
        return self.key.startswith("tokenizer.")


def metadata_differences(expected: Iterable[MetadataEntry], header: GgufHeader) -> tuple[KeyDifference, ...]:
    """Compare every key but those of provenance and the chat template.

    Args:
        expected: What the converter writes for the base.
        header: The file's.

    Returns:
        The keys that differ, are missing or too many, in the order of `expected`; those that only the file has come last.

    Worked example:
        A file converted with another rope base gives one difference, whose text is
        `llama.rope.freq_base is 10000, not 500000`.
    """
    wanted = {entry.key: entry for entry in expected if _is_compared(entry.key)}
    there = {entry.key: entry for entry in header.metadata if _is_compared(entry.key)}
    defaults = {key: _default(key, header) for key in _ENDS}
    texts = {key: _difference(wanted.get(key), there.get(key), defaults.get(key)) for key in (*wanted, *there)}
    return tuple(KeyDifference(key=key, text=f"{key} {text}") for key, text in texts.items() if text)


def _is_compared(key: str) -> bool:
    return key == "general.architecture" or not key.startswith((*_PROVENANCE, _TEMPLATES))


def _default(key: str, header: GgufHeader) -> bool:
    """Give what a flag is in llama.cpp where the file does not have it (`llama_vocab::impl::load` of src/llama-vocab.cpp)."""
    model, pre = header.value("tokenizer.ggml.model"), header.value("tokenizer.ggml.pre")
    return key.endswith("bos_token") and (model == "llama" or (isinstance(pre, str) and pre.startswith("llama")))


def _difference(wanted: MetadataEntry | None, found: MetadataEntry | None, default: bool | None) -> str:
    """Say how a key differs; `default` is what its absence means, None where that means nothing in particular."""
    if wanted is None or found is None:
        entry = wanted or found
        if entry is None or (default is not None and entry.value == default):
            return ""
        if wanted is None:
            return f"is {_shown(entry)}, and should not be there"
        return f"is missing; it should be {_shown(entry)}"
    if isinstance(wanted.value, GgufArray) and isinstance(found.value, GgufArray):
        return _array_difference(wanted.value, found.value)
    return "" if _is_equal(wanted.value, found.value) else f"is {_shown(found)}, not {_shown(wanted)}"


def _array_difference(wanted: GgufArray, found: GgufArray) -> str:
    if wanted == found:
        return ""
    ours, theirs = wanted.items(), found.items()
    if len(ours) != len(theirs):
        return f"has {len(theirs)} items, not {len(ours)}"
    places = [place for place, pair in enumerate(zip(ours, theirs, strict=True)) if not _is_equal(*pair)]
    if not places:
        return ""
    first = places[0]
    more = f" ({len(places)} of {len(ours)} differ)" if len(places) > 1 else f" (alone of {len(ours)})"
    return f"has {_text(theirs[first])}, not {_text(ours[first])}, at {first}{more}"


def _is_equal(one: Scalar | GgufArray, other: Scalar | GgufArray) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-6) or (math.isnan(one) and math.isnan(other))
    return one == other


def _shown(entry: MetadataEntry) -> str:
    if isinstance(entry.value, GgufArray):
        return f"an array of {entry.value.count}"
    return _text(entry.value, single=entry.type is ValueType.FLOAT32)


def _text(value: Scalar, *, single: bool = True) -> str:
    """Give a value as people write it: a float by the fewest digits that are the same float32."""
    if not isinstance(value, float) or not math.isfinite(value):
        return repr(value)[:_SHOWN]
    if value == int(value) and abs(value) < 1e15:
        return str(int(value))
    if not single:
        return repr(value)
    packed = struct.pack("<f", value)
    texts = (f"{value:.{digits}g}" for digits in range(1, 10))  # nine tell any two float32 apart
    return next(text for text in texts if struct.pack("<f", float(text)) == packed)
