from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from packager.formats.gguf import GgufArray, GgufHeader, MetadataEntry, Scalar, ValueType, header_bytes, read_gguf
from packager.parity.metadata import metadata_differences

TYPES = {str: ValueType.STRING, bool: ValueType.BOOL, int: ValueType.UINT32, float: ValueType.FLOAT32}
Values = dict[str, Scalar | GgufArray]

MODEL: Values = {
    "general.architecture": "llama",
    "general.name": "a",
    "general.file_type": 1,
    "llama.rope.freq_base": 500000.0,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.attention.head_count": 32,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.merges": GgufArray.of(ValueType.STRING, ["a b", "b c", "c d"]),
    "tokenizer.ggml.token_type": GgufArray.of(ValueType.INT32, [1, 3]),
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.add_bos_token": False,
    "tokenizer.chat_template": "{{ x }}",
}


def entries(values: Values) -> tuple[MetadataEntry, ...]:
    return tuple(
        MetadataEntry(key=key, type=ValueType.ARRAY if isinstance(v, GgufArray) else TYPES[type(v)], value=v)
        for key, v in values.items()
    )


def header(folder: Path, values: Values) -> GgufHeader:
    """A header as a file has it: a float has been through float32."""
    (folder / "m.gguf").write_bytes(header_bytes(entries(values), ()))
    return read_gguf(folder / "m.gguf")


def texts(folder: Path, changes: Values, without: Sequence[str] = ()) -> list[str]:
    values = {key: value for key, value in (MODEL | changes).items() if key not in without}
    return [found.text for found in metadata_differences(entries(MODEL), header(folder, values))]


def test_equal_headers_do_not_differ(tmp_path: Path) -> None:
    assert texts(tmp_path, {}) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({"llama.rope.freq_base": 10000.0}, "llama.rope.freq_base is 10000, not 500000", id="rope-base"),
        pytest.param(
            {"llama.attention.layer_norm_rms_epsilon": 1e-6},
            "llama.attention.layer_norm_rms_epsilon is 1e-06, not 1e-05",
            id="epsilon",
        ),
        pytest.param({"llama.attention.head_count": 16}, "llama.attention.head_count is 16, not 32", id="heads"),
        pytest.param({"general.architecture": "qwen2"}, "general.architecture is 'qwen2', not 'llama'", id="arch"),
        pytest.param(
            {"tokenizer.ggml.merges": GgufArray.of(ValueType.STRING, ["a b", "x y", "c d"])},
            "tokenizer.ggml.merges has 'x y', not 'b c', at 1 (alone of 3)",
            id="one-merge",
        ),
        pytest.param(
            {"tokenizer.ggml.merges": GgufArray.of(ValueType.STRING, ["b c", "a b", "c d"])},
            "tokenizer.ggml.merges has 'b c', not 'a b', at 0 (2 of 3 differ)",
            id="two-merges-exchanged",
        ),
        pytest.param(
            {"tokenizer.ggml.token_type": GgufArray.of(ValueType.INT32, [1])},
            "tokenizer.ggml.token_type has 1 items, not 2",
            id="shorter",
        ),
        pytest.param(
            {"tokenizer.ggml.add_bos_token": True}, "tokenizer.ggml.add_bos_token is True, not False", id="bos"
        ),
        pytest.param(
            {"llama.rope.scaling.factor": 2.5}, "llama.rope.scaling.factor is 2.5, and should not be there", id="extra"
        ),
        pytest.param(
            {"llama.rope.freq_base": float("nan")}, "llama.rope.freq_base is nan, not 500000", id="not-a-number"
        ),
    ],
)
def test_a_key_that_differs_is_told_with_both_values(changes: Values, expected: str, tmp_path: Path) -> None:
    assert texts(tmp_path, changes) == [expected]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"general.name": "b", "general.file_type": 7}, id="provenance"),
        pytest.param({"general.quantized_by": "somebody"}, id="more-provenance"),
        pytest.param({"quantize.imatrix.file": "calibration.dat"}, id="importance-matrix"),
        pytest.param({"split.count": 2}, id="split"),
        pytest.param({"tokenizer.chat_template": "{{ y }}", "tokenizer.chat_template.tool_use": "z"}, id="template"),
        pytest.param({"tokenizer.ggml.add_eos_token": False}, id="a-flag-at-its-default"),
    ],
)
def test_what_says_nothing_of_the_model_is_left_out(changes: Values, tmp_path: Path) -> None:
    assert texts(tmp_path, changes) == []


def test_a_missing_key_is_told_with_its_value(tmp_path: Path) -> None:
    assert texts(tmp_path, {}, ["llama.rope.freq_base"]) == ["llama.rope.freq_base is missing; it should be 500000"]
    assert texts(tmp_path, {}, ["tokenizer.ggml.merges"]) == [
        "tokenizer.ggml.merges is missing; it should be an array of 3"
    ]


@pytest.mark.parametrize(
    ("tokenizer", "differs"),
    [
        pytest.param({"tokenizer.ggml.model": "gpt2"}, False, id="gpt2-adds-none"),
        pytest.param({"tokenizer.ggml.model": "llama"}, True, id="llama-adds-bos"),
        pytest.param({"tokenizer.ggml.pre": "llama-bpe"}, True, id="llama-3-adds-bos"),
    ],
)
def test_a_flag_that_is_missing_is_what_llama_cpp_takes_it_for(
    tokenizer: Values, differs: bool, tmp_path: Path
) -> None:
    expected = entries(MODEL | tokenizer)
    there = {key: value for key, value in (MODEL | tokenizer).items() if key != "tokenizer.ggml.add_bos_token"}
    found = metadata_differences(expected, header(tmp_path, there))
    assert bool(found) == differs
    assert {each.key for each in found} <= {"tokenizer.ggml.add_bos_token"}


def test_tokenizer_keys_are_told_from_the_others(tmp_path: Path) -> None:
    changed = MODEL | {"tokenizer.ggml.eos_token_id": 3, "llama.attention.head_count": 16}
    found = metadata_differences(entries(MODEL), header(tmp_path, changed))
    assert {each.key: each.is_tokenizer for each in found} == {
        "llama.attention.head_count": False, "tokenizer.ggml.eos_token_id": True
    }  # fmt: skip
