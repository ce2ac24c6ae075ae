"""What can be wrong with a file before anything runs, each fault planted into a real one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from packager.artifacts import Gguf, Outcome, Quant
from packager.formats.gguf import header_bytes, read_gguf
from packager.parity.structure import Structure, check_structure
from packager.quants import DEFAULT_QUANTS
from tests.made_ggufs import Made, make_ggufs


@pytest.fixture(scope="module")
def made(
    tiny: Callable[[str], Path], tiny_lora: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Made:
    return make_ggufs(tiny("qwen2.5"), tiny_lora("qwen2.5"), DEFAULT_QUANTS, tmp_path_factory.mktemp("made"))


def described(path: Path, quant: Quant) -> Gguf:
    data = path.read_bytes()
    return Gguf(path=path, quant=quant, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def check(made: Made, gguf: Gguf) -> Structure:
    return check_structure(gguf, base=made.base, template=made.template)


def with_value(source: Path, key: str, value: str | int, target: Path) -> Path:
    """Write a file again with one metadata value changed."""
    header = read_gguf(source)
    metadata = [replace(entry, value=value) if entry.key == key else entry for entry in header.metadata]
    assert metadata != list(header.metadata)
    text = header_bytes(metadata, [(tensor.name, tensor.shape, tensor.type) for tensor in header.tensors])
    target.write_bytes(text + source.read_bytes()[header.data_offset :])
    return target


@pytest.mark.parametrize("quant", [pytest.param(quant, id=quant.value) for quant in DEFAULT_QUANTS])
def test_a_file_as_it_was_made_passes(made: Made, quant: Quant) -> None:
    found = check(made, made.gguf(quant))
    assert found.whole
    assert found.check.outcome is Outcome.PASSED, found.check.detail
    assert (found.check.subject, found.check.engine, found.check.name) == (quant.value, "file", "structure")
    assert found.check.measures[0].value == len(read_gguf(made.gguf(quant).path).tensors)


@pytest.mark.parametrize("family", [pytest.param("qwen3", id="qwen3"), pytest.param("llama3.1", id="llama3.1")])
def test_other_families_pass(
    family: str, tiny: Callable[[str], Path], tiny_lora: Callable[[str], Path], tmp_path: Path
) -> None:
    made = make_ggufs(tiny(family), tiny_lora(family), (Quant.Q8_0,), tmp_path)
    assert check(made, made.ggufs[0]).check.outcome is Outcome.PASSED, check(made, made.ggufs[0]).check.detail


def test_one_flipped_bit_is_another_file(made: Made, tmp_path: Path) -> None:
    original = made.gguf(Quant.Q8_0)
    data = bytearray(original.path.read_bytes())
    data[len(data) // 2] ^= 1
    path = tmp_path / "flipped-Q8_0.gguf"
    path.write_bytes(data)
    found = check(made, replace(original, path=path))
    assert found.check.outcome is Outcome.FAILED
    assert not found.whole, "llama.cpp must not be given it"
    assert found.check.detail == f"sha256 is {hashlib.sha256(data).hexdigest()}, recorded was {original.sha256}"


def test_a_missing_file_fails(made: Made, tmp_path: Path) -> None:
    found = check(made, replace(made.gguf(Quant.F16), path=tmp_path / "gone-F16.gguf"))
    assert found.check.outcome is Outcome.FAILED
    assert not found.whole


def test_a_truncated_file_fails_even_with_its_own_digest(made: Made, tmp_path: Path) -> None:
    path = tmp_path / "cut-F16.gguf"
    path.write_bytes(made.gguf(Quant.F16).path.read_bytes()[:-1000])
    found = check(made, described(path, Quant.F16))
    assert found.check.outcome is Outcome.FAILED
    assert not found.whole
    assert "ends inside tensor" in found.check.detail


@pytest.mark.parametrize(
    ("real", "claimed", "detail"),
    [
        pytest.param(Quant.Q8_0, Quant.Q4_K_M, "general.file_type is 7; q4_k_m is 15", id="q8_0 taken for q4_k_m"),
        pytest.param(Quant.Q4_K_M, Quant.F16, "general.file_type is 15; f16 is 1", id="q4_k_m taken for f16"),
    ],
)
def test_a_file_of_another_quant_fails(made: Made, real: Quant, claimed: Quant, detail: str) -> None:
    found = check(made, replace(made.gguf(real), quant=claimed))
    assert (found.check.outcome, found.check.detail) == (Outcome.FAILED, detail)


def test_a_file_renamed_to_another_quant_fails(made: Made, tmp_path: Path) -> None:
    path = tmp_path / "test-F16.gguf"
    path.write_bytes(made.gguf(Quant.Q8_0).path.read_bytes())
    found = check(made, described(path, Quant.Q8_0))
    assert (found.check.outcome, found.check.detail) == (Outcome.FAILED, "test-F16.gguf holds q8_0")


@pytest.mark.parametrize(
    ("real", "claimed", "number", "detail"),
    [
        pytest.param(Quant.Q8_0, Quant.F16, 1, "the file says f16 and holds Q8_0", id="f16"),
        pytest.param(Quant.F16, Quant.Q8_0, 7, "the file says q8_0 and holds no quantized tensor", id="q8_0"),
        pytest.param(
            Quant.Q8_0, Quant.Q4_K_M, 15, "the file says q4_k_m and holds no tensor below 8 bits", id="q4_k_m"
        ),
    ],
)
def test_a_header_that_lies_about_its_tensors_fails(
    made: Made, tmp_path: Path, real: Quant, claimed: Quant, number: int, detail: str
) -> None:
    path = with_value(made.gguf(real).path, "general.file_type", number, tmp_path / "lie.gguf")
    found = check(made, described(path, claimed))
    assert (found.check.outcome, found.check.detail) == (Outcome.FAILED, detail)


def test_a_stale_template_fails_with_its_first_difference(made: Made, tmp_path: Path) -> None:
    stale = made.template.text.replace("<|im_start|>", "<|im_begin|>", 1)
    path = with_value(made.gguf(Quant.F16).path, "tokenizer.chat_template", stale, tmp_path / "stale-F16.gguf")
    found = check(made, described(path, Quant.F16))
    assert found.check.outcome is Outcome.FAILED
    assert found.whole, "it can still be run, which shows what the difference does"
    assert found.check.detail.startswith("its chat template is not the build's: character ")
    assert "<|im_b" in found.check.detail


def test_a_file_without_a_template_fails(made: Made, tmp_path: Path) -> None:
    path = tmp_path / "bare-F16.gguf"
    data = made.gguf(Quant.F16).path.read_bytes()
    path.write_bytes(data.replace(b"tokenizer.chat_template", b"tokenizer.chat_templatX"))
    assert check(made, described(path, Quant.F16)).check.detail == "there is no chat template in it"


def test_a_block_that_is_missing_is_counted(made: Made) -> None:
    deeper = replace(made, base=replace(made.base, layers=3))
    assert check(deeper, made.gguf(Quant.F16)).check.detail == "2 blocks, block_count 2; the base has 3"


def test_weights_that_are_missing_are_counted(made: Made) -> None:
    norm = next(entry for entry in made.base.tensors if entry.name == "model.norm.weight")
    more = replace(
        made, base=replace(made.base, tensors=(*made.base.tensors, replace(norm, name="model.extra.weight")))
    )
    found = check(more, made.gguf(Quant.F16)).check
    assert found.outcome is Outcome.FAILED
    whole = sum(_count(entry.shape) for entry in made.base.tensors)
    assert found.detail == f"{whole} weights; the base has {whole + 64}"


def test_an_architecture_that_is_converted_otherwise_is_not_counted(made: Made) -> None:
    unknown = replace(made, base=replace(made.base, architecture="MambaForCausalLM", layers=99))
    assert check(unknown, made.gguf(Quant.F16)).check.outcome is Outcome.PASSED


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
