from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from packager.errors import InputInvalid
from packager.formats.gguf import (
    GGML_TYPE_SIZES,
    GgmlType,
    GgufArray,
    MetadataEntry,
    ValueType,
    header_bytes,
    padded,
    read_gguf,
    tensor_bytes,
)

Listed = tuple[str, tuple[int, ...], GgmlType]

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
FLOAT32 = st.floats(width=32, allow_nan=False)


def entry(key: str, kind: ValueType, value: object) -> MetadataEntry:
    return MetadataEntry(key=key, type=kind, value=value)  # type: ignore[arg-type]


SCALARS = st.one_of(
    st.tuples(st.just(ValueType.UINT8), st.integers(0, 2**8 - 1)),
    st.tuples(st.just(ValueType.INT32), st.integers(-(2**31), 2**31 - 1)),
    st.tuples(st.just(ValueType.UINT64), st.integers(0, 2**64 - 1)),
    st.tuples(st.just(ValueType.FLOAT32), FLOAT32),
    st.tuples(st.just(ValueType.BOOL), st.booleans()),
    st.tuples(st.just(ValueType.STRING), TEXT),
    st.tuples(st.just(ValueType.ARRAY), st.lists(TEXT, max_size=5).map(lambda x: GgufArray.of(ValueType.STRING, x))),
    st.tuples(
        st.just(ValueType.ARRAY),
        st.lists(st.integers(-9, 9), max_size=5).map(lambda x: GgufArray.of(ValueType.INT32, x)),
    ),
)


@st.composite
def headers(draw: st.DrawFn) -> tuple[list[MetadataEntry], list[Listed]]:
    keys = draw(st.lists(st.from_regex(r"[a-z]{1,8}\.[a-z]{1,8}", fullmatch=True), unique=True, max_size=6))
    metadata = [entry(key, *draw(SCALARS)) for key in keys]
    names = draw(st.lists(st.from_regex(r"[a-z0-9.]{1,20}", fullmatch=True), unique=True, max_size=4))
    tensors = []
    for name in names:
        kind = draw(st.sampled_from(sorted(GGML_TYPE_SIZES)))
        block = GGML_TYPE_SIZES[kind][0]
        leading = draw(st.lists(st.integers(1, 3), max_size=3))
        tensors.append((name, (*leading, block * draw(st.integers(1, 2))), kind))
    return metadata, tensors


def write(path: Path, metadata: list[MetadataEntry], tensors: list[Listed]) -> bytes:
    header = header_bytes(metadata, tensors)
    data = sum(padded(tensor_bytes(shape, kind)) for _, shape, kind in tensors)
    path.write_bytes(header + bytes(data))
    return header


SMALL = (
    [
        entry("general.architecture", ValueType.STRING, "llama"),
        entry("tokenizer.ggml.tokens", ValueType.ARRAY, GgufArray.of(ValueType.STRING, ["a", "é", ""])),
        entry("general.file_type", ValueType.UINT32, 1),
    ],
    [("token_embd.weight", (3, 32), GgmlType.Q8_0), ("output_norm.weight", (32,), GgmlType.F32)],
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(headers())
def test_what_was_written_is_read_and_written_again_the_same(
    tmp_path: Path, made: tuple[list[MetadataEntry], list[Listed]]
) -> None:
    metadata, tensors = made
    path = tmp_path / "x.gguf"
    header = write(path, metadata, tensors)
    found = read_gguf(path)
    assert list(found.metadata) == metadata
    assert [(tensor.name, tensor.shape, tensor.type) for tensor in found.tensors] == tensors
    assert found.data_offset == len(header)
    assert header_bytes(found.metadata, tensors) == header


def test_gguf_py_reads_what_was_written(tmp_path: Path) -> None:
    import gguf

    path = tmp_path / "x.gguf"
    header = write(path, *SMALL)
    reader = gguf.GGUFReader(path)
    assert reader.get_field("tokenizer.ggml.tokens").contents() == ["a", "é", ""]
    assert reader.get_field("general.architecture").contents() == "llama"
    assert [(t.name, list(t.shape), t.tensor_type.name) for t in reader.tensors] == [
        ("token_embd.weight", [32, 3], "Q8_0"),
        ("output_norm.weight", [32], "F32"),
    ]
    assert reader.tensors[0].data_offset == len(header)


def test_what_gguf_py_wrote_is_read(tmp_path: Path) -> None:
    import gguf
    import numpy as np

    path = tmp_path / "x.gguf"
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_float32("a.float", 0.5)
    writer.add_array("a.list", [True, False])
    writer.add_tensor("t", np.ones((2, 3), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header = read_gguf(path)
    assert header.value("general.architecture") == "qwen2"
    assert header.value("a.float") == 0.5
    array = header.value("a.list")
    assert isinstance(array, GgufArray)
    assert array.items() == (True, False)
    tensor = header.tensors[0]
    assert (tensor.name, tensor.shape, tensor.type, tensor.size_bytes) == ("t", (2, 3), GgmlType.F16, 12)
    assert header.value("absent") is None


def test_type_sizes_are_gguf_pys() -> None:
    import gguf

    theirs = {int(kind): sizes for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    newer = {GgmlType.Q2_0: (64, 18)}  # llama.cpp ggml-common.h, block_q2_0; not in the gguf-py of PyPI yet
    for kind, sizes in GGML_TYPE_SIZES.items():
        assert (theirs.get(int(kind)) or newer[kind]) == sizes


def replaced(at: int, value: bytes) -> Callable[[bytes], bytes]:
    return lambda raw: raw[:at] + value + raw[at + len(value) :]


FIRST_KEY = 24  # after magic, version and two counts
FIRST_VALUE = FIRST_KEY + 8 + len("general.architecture")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        pytest.param(lambda raw: b"", "claims 4 bytes", id="empty"),
        pytest.param(replaced(0, b"GGML"), "not a GGUF file", id="other-magic"),
        pytest.param(replaced(4, struct.pack("<I", 9)), "version 9", id="version-from-the-future"),
        pytest.param(replaced(8, struct.pack("<Q", 2**63)), "tensors", id="huge-tensor-count"),
        pytest.param(replaced(16, struct.pack("<Q", 2**60)), "metadata keys", id="huge-key-count"),
        pytest.param(replaced(FIRST_KEY, struct.pack("<Q", 2**60)), "claims", id="huge-key-length"),
        pytest.param(replaced(FIRST_VALUE, struct.pack("<I", 77)), "value type 77", id="unknown-value-type"),
        pytest.param(replaced(FIRST_VALUE + 4, struct.pack("<Q", 2**62)), "claims", id="huge-text"),
        pytest.param(lambda raw: raw[:-1], "ends inside tensor", id="data-cut-by-one-byte"),
        pytest.param(lambda raw: raw[:60], "left of its header", id="header-cut"),
        pytest.param(lambda raw: raw[:9], "claims 20 bytes at 4", id="only-magic"),
    ],
)
def test_a_damaged_file_is_refused(damage: Callable[[bytes], bytes], says: str, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    write(path, *SMALL)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputInvalid, match=says) as caught:
        read_gguf(path)
    assert str(path) in caught.value.message


@pytest.mark.parametrize(
    ("metadata", "tensors", "says"),
    [
        pytest.param([entry("a.b", ValueType.UINT8, 1)] * 2, [], "appears twice", id="key-twice"),
        pytest.param([], [("t", (32,), GgmlType.F32)] * 2, "appears twice", id="tensor-twice"),
        pytest.param([], [("t" * 64, (32,), GgmlType.F32)], "longer than 63", id="long-name"),
        pytest.param([], [("t", (1, 1, 1, 1, 1), GgmlType.F32)], "5 dimensions", id="five-dimensions"),
        pytest.param([], [("t", (0,), GgmlType.F32)], "whole number", id="no-elements"),
        pytest.param([], [("t", (2, 33), GgmlType.Q8_0)], "whole number", id="part-of-a-block"),
        pytest.param([entry("general.alignment", ValueType.UINT32, 33)], [], "power of two", id="odd-alignment"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(
    metadata: list[MetadataEntry], tensors: list[Listed], says: str, tmp_path: Path
) -> None:
    write(tmp_path / "x.gguf", metadata, tensors)
    with pytest.raises(InputInvalid, match=says):
        read_gguf(tmp_path / "x.gguf")


def test_overlapping_tensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    header = write(path, [], [("a", (32,), GgmlType.F32), ("b", (32,), GgmlType.F32)])
    second = struct.pack("<QIQ", 32, GgmlType.F32, 128)
    assert header.count(second) == 1
    path.write_bytes(path.read_bytes().replace(second, struct.pack("<QIQ", 32, GgmlType.F32, 0)))
    with pytest.raises(InputInvalid, match="tensor b is at 0, not at 128"):
        read_gguf(path)


def test_an_array_of_arrays_and_a_false_boolean_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    start = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 3) + b"a.b"
    path.write_bytes(start + struct.pack("<IIQ", ValueType.ARRAY, ValueType.ARRAY, 0) + bytes(64))
    with pytest.raises(InputInvalid, match="array of arrays"):
        read_gguf(path)
    path.write_bytes(start + struct.pack("<IB", ValueType.BOOL, 2) + bytes(64))
    with pytest.raises(InputInvalid, match="boolean of value 2"):
        read_gguf(path)
    path.write_bytes(start + struct.pack("<IIQB", ValueType.ARRAY, ValueType.BOOL, 1, 7) + bytes(64))
    with pytest.raises(InputInvalid, match="neither 0 nor 1"):
        read_gguf(path)


def test_a_huge_array_in_a_sparse_file_costs_nothing(tmp_path: Path) -> None:
    """The file really is large enough for the claim; the header's own limit stops it."""
    path = tmp_path / "x.gguf"
    start = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 3) + b"a.b"
    path.write_bytes(start + struct.pack("<IIQ", ValueType.ARRAY, ValueType.STRING, 1 << 33))
    with path.open("r+b") as file:
        file.truncate(1 << 38)
    with pytest.raises(InputInvalid, match=r"items of a\.b"):
        read_gguf(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_change_is_read_or_refused_and_never_anything_else(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "x.gguf"
    write(path, *SMALL)
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw) - 1))
        patch = data.draw(st.binary(min_size=1, max_size=8))
        raw[at : at + len(patch)] = patch
    path.write_bytes(bytes(raw[: data.draw(st.integers(0, len(raw)))]))
    try:
        header = read_gguf(path)
    except InputInvalid:
        return
    for tensor in header.tensors:
        assert tensor.offset + tensor.size_bytes <= path.stat().st_size


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_random_bytes_are_read_or_refused(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<I", 3) + raw)
    with contextlib.suppress(InputInvalid):
        read_gguf(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputInvalid, match="No such file"):
        read_gguf(tmp_path / "absent.gguf")


def test_text_that_is_not_utf8_keeps_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    odd = b"\xff\xfe".decode("utf-8", "surrogateescape")
    header = write(path, [entry("a.b", ValueType.STRING, odd)], [])
    assert b"\xff\xfe" in header
    assert read_gguf(path).value("a.b") == odd
