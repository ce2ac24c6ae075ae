from __future__ import annotations

from types import SimpleNamespace

import pytest

from packager.artifacts import ChatTemplate
from packager.formats.gguf import GgufArray, MetadataEntry, ValueType, header_bytes
from packager.weights.gguf_metadata import metadata_entry, with_template

TEMPLATE = ChatTemplate(source="", original_sha256="", text="canonical", pins=(), stops=(), adds_bos=False)


def value(kind: ValueType, found: object, sub_type: ValueType | None = None) -> SimpleNamespace:
    """What gguf-py's writer keeps for a key."""
    return SimpleNamespace(value=found, type=int(kind), sub_type=None if sub_type is None else int(sub_type))


CASES = [
    pytest.param(ValueType.UINT32, 7, None, id="uint32"),
    pytest.param(ValueType.FLOAT32, 0.5, None, id="float32"),
    pytest.param(ValueType.BOOL, True, None, id="bool"),
    pytest.param(ValueType.STRING, "é", None, id="text"),
    pytest.param(ValueType.ARRAY, ["a", b"\xc3\xa9", bytearray(b"b")], None, id="texts-and-bytes"),
    pytest.param(ValueType.ARRAY, [1, -2], None, id="integers"),
    pytest.param(ValueType.ARRAY, [0.5, 1.5], None, id="floats"),
    pytest.param(ValueType.ARRAY, [True, False], None, id="booleans"),
    pytest.param(ValueType.ARRAY, b"\1\2", None, id="bytes"),
    pytest.param(ValueType.ARRAY, [1, 2], ValueType.UINT64, id="named-item-type"),
]


@pytest.mark.parametrize(("kind", "found", "sub_type"), CASES)
def test_values_have_the_bytes_that_gguf_py_writes(kind: ValueType, found: object, sub_type: ValueType | None) -> None:
    import gguf

    writer = gguf.GGUFWriter(None, "llama")
    sub = None if sub_type is None else gguf.GGUFValueType(int(sub_type))
    theirs = writer._pack_val(found, gguf.GGUFValueType(int(kind)), add_vtype=True, sub_type=sub)
    ours = header_bytes([metadata_entry("k", value(kind, found, sub_type))], [])
    assert ours[24 + 8 + 1 :].startswith(theirs)


def test_a_template_takes_the_place_of_the_old_one_and_its_alternatives() -> None:
    old = [
        MetadataEntry(key="tokenizer.chat_template", type=ValueType.STRING, value="old"),
        MetadataEntry(key="tokenizer.chat_template.tool_use", type=ValueType.STRING, value="old"),
        MetadataEntry(
            key="tokenizer.chat_templates",
            type=ValueType.ARRAY,
            value=GgufArray.of(ValueType.STRING, ["tool_use"]),
        ),
        MetadataEntry(key="tokenizer.ggml.add_bos_token", type=ValueType.BOOL, value=True),
        MetadataEntry(key="x", type=ValueType.UINT8, value=1),
    ]
    found = with_template(tuple(old), TEMPLATE)
    assert [(entry.key, entry.value) for entry in found] == [
        ("tokenizer.chat_template", "canonical"),
        ("tokenizer.ggml.add_bos_token", False),
        ("x", 1),
    ]
    assert with_template(tuple(old), None) == tuple(old)
    assert [entry.key for entry in with_template((), TEMPLATE)] == [
        "tokenizer.ggml.add_bos_token",
        "tokenizer.chat_template",
    ]


@pytest.mark.parametrize("key", ["tokenizer.ggml.add_eos_token", "tokenizer.ggml.add_sep_token"])
def test_nothing_is_added_behind_a_prompt(key: str) -> None:
    ends = MetadataEntry(key=key, type=ValueType.BOOL, value=True)
    assert {entry.key: entry.value for entry in with_template((ends,), TEMPLATE)}[key] is False
    assert with_template((ends,), None) == (ends,)
