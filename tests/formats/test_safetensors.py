"""The safetensors library decides what a good file is; the corpus of broken ones is written by hand."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from packager.errors import InputInvalid
from packager.formats.safetensors import BITS, read_header

DTYPES = {"F32": numpy.float32, "F16": numpy.float16, "F64": numpy.float64, "I64": numpy.int64, "U8": numpy.uint8}


def raw(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape: object = (2,), offsets: object = (0, 8), dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.text("abc._0", min_size=1, max_size=20),
        st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 4), max_size=3)),
        min_size=1,
        max_size=6,
    )
)
def test_reads_what_the_library_writes(tmp_path: Path, wanted: dict[str, tuple[str, list[int]]]) -> None:
    path = tmp_path / "x.safetensors"
    tensors = {name: numpy.ones(shape, dtype=DTYPES[dtype]) for name, (dtype, shape) in wanted.items()}
    save_file(tensors, path, metadata={"format": "pt"})
    found = {item.name: item for item in read_header(path)}
    with safe_open(path, "numpy") as library:
        assert set(found) == set(library.keys())
        for name, item in found.items():
            view = library.get_slice(name)
            assert (item.dtype, list(item.shape)) == (view.get_dtype(), view.get_shape())
            data = path.read_bytes()[item.offset : item.offset + item.size_bytes]
            assert data == tensors[name].tobytes()


def test_sub_byte_types_are_counted_in_bits(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw({"a": entry((3, 4), (0, 6), "F4")}, bytes(6)))
    assert read_header(path)[0].size_bytes == 6
    assert BITS["F4"] == 4


CASES = {
    "empty": b"",
    "seven-bytes": b"1234567",
    "length-only": struct.pack("<Q", 2),
    "header-past-the-end": raw({}, length=1000),
    "huge-length": raw({}, length=1 << 63),
    "not-json": raw(b"{nonsense}"),
    "not-an-object": raw([]),
    "leading-blank": raw(b" {}"),
    "not-utf8": raw(b'{"\xff": 1}'),
    "deep": raw(b'{"a":' + b"[" * 100_000),
    "gguf": b"GGUF" + bytes(100),
    "lfs-pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "data-after-the-last": raw({"a": entry()}, bytes(12)),
    "data-without-tensor": raw({}, bytes(4)),
    "truncated-by-one": raw({"a": entry()}, bytes(7)),
    "truncated-to-the-header": raw({"a": entry()}),
    "duplicate-name": raw(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4)),  # noqa: E501
    "overlap": raw({"a": entry(), "b": entry((2,), (4, 12))}, bytes(12)),
    "same-place": raw({"a": entry(), "b": entry()}, bytes(8)),
    "gap": raw({"a": entry(), "b": entry((1,), (12, 16))}, bytes(16)),
    "gap-at-the-start": raw({"a": entry((1,), (4, 8))}, bytes(8)),
    "reversed-offsets": raw({"a": entry((2,), (8, 0))}, bytes(8)),
    "negative-offset": raw({"a": entry((2,), (-8, 0))}, bytes(8)),
    "one-offset": raw({"a": entry((2,), (8,))}, bytes(8)),
    "offset-true": raw({"a": entry((1,), (False, 4))}, bytes(4)),
    "offset-text": raw({"a": entry((2,), ("0", "8"))}, bytes(8)),
    "offset-float": raw({"a": entry((2,), (0, 8.0))}, bytes(8)),
    "size-mismatch": raw({"a": entry((3,), (0, 8))}, bytes(8)),
    "half-a-byte": raw({"a": entry((1,), (0, 1), "F4")}, bytes(1)),
    "overflowing-shape": raw({"a": entry((1 << 62, 1 << 62, 1 << 62), (0, 8))}, bytes(8)),
    "shape-too-large": raw({"a": entry((1 << 64,), (0, 8))}, bytes(8)),
    "negative-shape": raw({"a": entry((-2,), (0, 8))}, bytes(8)),
    "shape-number": raw({"a": entry(2, (0, 8))}, bytes(8)),
    "shape-nested": raw({"a": entry([[2]], (0, 8))}, bytes(8)),
    "too-many-dimensions": raw({"a": entry([1] * 1000, (0, 4))}, bytes(4)),
    "unknown-dtype": raw({"a": entry((2,), (0, 8), "F33")}, bytes(8)),
    "dtype-number": raw({"a": entry((2,), (0, 8), 4)}, bytes(8)),
    "missing-dtype": raw({"a": {"shape": [2], "data_offsets": [0, 8]}}, bytes(8)),
    "unknown-field": raw({"a": {**entry(), "stride": [1]}}, bytes(8)),
    "tensor-is-list": raw({"a": []}),
    "empty-name": raw({"": entry()}, bytes(8)),
    "name-with-newline": raw({"a\nb": entry()}, bytes(8)),
    "name-with-nul": raw({"a\0": entry()}, bytes(8)),
    "long-name": raw({"a" * 5000: entry()}, bytes(8)),
    "metadata-list": raw({"__metadata__": []}),
    "metadata-numbers": raw({"__metadata__": {"format": 1}}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_broken_files_are_refused_in_one_line_that_names_them(case: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(CASES[case])
    with pytest.raises(InputInvalid) as caught:
        read_header(path)
    assert caught.value.message.startswith(f"{path}: ")
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < len(str(path)) + 250
    assert caught.value.hint


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(st.data())
def test_what_is_accepted_after_damage_the_library_accepts_too(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "x.safetensors"
    good = raw({"a": entry(), "bc": entry((2, 2), (8, 24))}, bytes(24))
    spoiled = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        spoiled[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(spoiled[: data.draw(st.integers(0, len(good)))] if data.draw(st.booleans()) else spoiled)
    try:
        read_header(path)
    except InputInvalid:
        return
    try:
        with safe_open(path, "numpy") as library:
            assert library.keys()
    except SafetensorError as error:
        pytest.fail(f"accepted what the library refuses: {error}")


def test_both_values_of_a_truncated_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": numpy.zeros((100, 100), dtype=numpy.float32)}, path)
    whole = path.stat().st_size
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputInvalid) as caught:
        read_header(path)
    assert caught.value.message == f"{path}: the header promises {whole} bytes, the file has 1000"
    assert "again" in caught.value.hint


def test_a_header_over_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 90_000_000))
        file.truncate(100_000_000)  # sparse
    with pytest.raises(InputInvalid, match="header has 90000000 bytes, at most 16777216 are read"):
        read_header(path)


@pytest.mark.parametrize("cut", range(0, 16), ids=lambda cut: f"cut-{cut}")
def test_every_truncation_is_noticed(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    good = raw({"a": entry(), "b": entry((4, 4), (8, 72))}, bytes(72))
    path.write_bytes(good[: math.floor(len(good) * cut / 16)])
    with pytest.raises(InputInvalid):
        read_header(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputInvalid, match="no such file"):
        read_header(tmp_path / "absent.safetensors")
    with pytest.raises(InputInvalid, match="not a regular file"):
        read_header(tmp_path)


def test_the_real_base_is_read(smollm2: Path) -> None:
    with safe_open(smollm2 / "model.safetensors", "numpy") as library:
        assert sorted(item.name for item in read_header(smollm2 / "model.safetensors")) == sorted(library.keys())
