from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from packager.artifacts import Quant
from packager.errors import InputInvalid, NoSpace
from packager.formats.gguf import GgmlType, MetadataEntry, ValueType, read_gguf
from packager.weights.gguf_output import GgufOutput, disk_errors

METADATA = (MetadataEntry(key="general.architecture", type=ValueType.STRING, value="llama"),)
TENSORS = (("a", (2, 3), GgmlType.F32), ("b", (5,), GgmlType.F16))


def output(path: Path) -> GgufOutput:
    return GgufOutput(path, Quant.F16, METADATA, TENSORS)


def test_a_finished_file_has_its_name_digest_and_data(tmp_path: Path) -> None:
    made = output(tmp_path / "x.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["x.gguf.partial"]
    made.write(b"\1" * 24)
    made.end_tensor()
    made.write(memoryview(b"\2" * 4))
    made.write(b"\3" * 6)
    made.end_tensor()
    gguf = made.finish()
    raw = (tmp_path / "x.gguf").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["x.gguf"]
    assert (gguf.sha256, gguf.size_bytes) == (hashlib.sha256(raw).hexdigest(), len(raw))
    header = read_gguf(gguf.path)
    data = [raw[tensor.offset : tensor.offset + tensor.size_bytes] for tensor in header.tensors]
    assert data == [b"\1" * 24, b"\2" * 4 + b"\3" * 6]
    assert made.type_of("b") is GgmlType.F16
    assert made.data_bytes == 34


def test_what_is_discarded_leaves_nothing(tmp_path: Path) -> None:
    started = output(tmp_path / "x.gguf")
    started.write(b"\1" * 24)
    started.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_the_wrong_length_is_not_published(tmp_path: Path) -> None:
    made = output(tmp_path / "x.gguf")
    made.write(b"\1" * 24)
    with pytest.raises(InputInvalid, match=r"x\.gguf: \d+ bytes were written of \d+"):
        made.finish()
    made.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputInvalid, match=r"absent/x\.gguf\.partial: cannot be written"):
        output(tmp_path / "absent" / "x.gguf")


def test_a_full_disk_is_told_from_other_failures(tmp_path: Path) -> None:
    with pytest.raises(NoSpace), disk_errors(tmp_path / "x"):
        raise OSError(28, "No space left on device")
    with pytest.raises(ZeroDivisionError), disk_errors(tmp_path / "x"):
        raise ZeroDivisionError
