"""The converter's metadata as values of `formats.gguf`, with the canonical chat template put in.

Source:
    gguf-py `gguf/gguf_writer.py` (`_pack_val`), `gguf/constants.py` (`GGUFValueType.get_type`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from packager.artifacts import ChatTemplate
from packager.formats.gguf import GgufArray, MetadataEntry, ValueType

_ENDS = ("tokenizer.ggml.add_eos_token", "tokenizer.ggml.add_sep_token")


def with_template(metadata: tuple[MetadataEntry, ...], template: ChatTemplate | None) -> tuple[MetadataEntry, ...]:
    """Put the canonical template in, and say whether the tokenizer adds BOS; it adds nothing behind a prompt.

    llama.cpp strips a leading BOS from the rendered text when add_bos_token is set, and then adds it as a token: so the flag
    says how canonical token ids begin, whatever the text does. An EOS that the tokenizer puts behind every text (Command R)
    would end the prompt: nothing of training's prompts stands behind what the template writes.
    """
    if template is None:
        return metadata
    metadata = without_ends(metadata)
    text = MetadataEntry(key="tokenizer.chat_template", type=ValueType.STRING, value=template.text)
    bos = MetadataEntry(key="tokenizer.ggml.add_bos_token", type=ValueType.BOOL, value=template.adds_bos)
    alternatives = ("tokenizer.chat_templates", "tokenizer.chat_template.")
    kept = [entry for entry in metadata if not entry.key.startswith(alternatives)]
    for replacement in (bos, text):
        places = [index for index, entry in enumerate(kept) if entry.key == replacement.key]
        if places:
            kept[places[0]] = replacement
        else:
            kept.append(replacement)
    return tuple(kept)


def without_ends(metadata: tuple[MetadataEntry, ...]) -> tuple[MetadataEntry, ...]:
    """Switch off every token that a tokenizer would put behind a text."""
    return tuple(replace(entry, value=False) if entry.key in _ENDS else entry for entry in metadata)


def metadata_entry(key: str, found: Any) -> MetadataEntry:
    """Give one key of the converter's writer (a gguf-py `GGUFValue`) with the type gguf-py would write."""
    kind = ValueType(int(found.type))
    if kind is not ValueType.ARRAY:
        value = found.value.item() if hasattr(found.value, "item") else found.value
        return MetadataEntry(key=key, type=kind, value=value.decode("utf-8") if isinstance(value, bytes) else value)
    items = found.value
    item_type = ValueType(int(found.sub_type)) if found.sub_type is not None else _item_type(items)
    plain = [_plain(item) for item in items]
    return MetadataEntry(key=key, type=kind, value=GgufArray.of(item_type, plain))


def _item_type(items: Any) -> ValueType:
    first = items[0]
    if isinstance(items, bytes):
        return ValueType.UINT8
    if isinstance(first, str | bytes | bytearray):
        return ValueType.STRING
    if isinstance(first, bool):
        return ValueType.BOOL
    return ValueType.FLOAT32 if isinstance(first, float) else ValueType.INT32


def _plain(item: Any) -> str | int | float | bool:
    if isinstance(item, bytes | bytearray):
        return bytes(item).decode("utf-8", "surrogateescape")
    if isinstance(item, str):
        return item
    value: int | float | bool = item.item() if hasattr(item, "item") else item
    return value
