"""Faults of the weights' file, planted in GGUF files: each is named, and nothing else is. No server is asked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from packager.doctor.case import Patient, Reference
from packager.doctor.finding import Organ, Severity
from packager.doctor.quantization import examine_quantization, promise_kept
from packager.formats.gguf import GgmlType, GgufHeader, GgufTensor, MetadataEntry, Scalar, ValueType, read_gguf
from tests.doctor.conftest import FileDoctor
from tests.doctor.planted import Q2_K, Q4_0, Q8_0, edited, quantized, with_items
from tests.doctor.test_in_ollama import codes

Converted = Callable[[Path], Path]
Known = Callable[..., Reference]


NUMBERS = [
    pytest.param("rope.freq_base", 500000.0, "ROPE_BASE", "rope.freq_base is 500000; the base has 10000", id="rope base"),
    pytest.param("attention.layer_norm_rms_epsilon", 1e-5, "NORM_EPSILON", "is 1e-05; the base has 1e-06", id="epsilon"),
    pytest.param("attention.head_count_kv", 4, "HEAD_COUNT", "head_count_kv is 4; the base has 2", id="heads"),
    pytest.param("rope.scaling.factor", 4.0, "HYPERPARAMETER", "rope.scaling.factor is 4; the base has none", id="scaling"),
    pytest.param("context_length", 2048, "CONTEXT_DECLARED", "of the GGUF is 2048; the base has 4096", id="context"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value", "code", "what"), NUMBERS)
def test_a_number_of_the_architecture(
    key: str, value: Scalar, code: str, what: str, small: Path, plain: Path, known: Known,
    examined: FileDoctor, tmp_path: Path,
) -> None:  # fmt: skip
    found = examined(edited(plain, tmp_path / "planted.gguf", {f"llama.{key}": value}), known(small))
    assert codes(found) == [code]
    assert what in found.findings[0].what


def test_a_pre_tokenizer_of_another_family(
    small: Path, plain: Path, known: Known, examined: FileDoctor, tmp_path: Path
) -> None:
    found = examined(edited(plain, tmp_path / "planted.gguf", {"tokenizer.ggml.pre": "gpt-2"}), known(small))
    assert codes(found) == ["PRE_TOKENIZER"]
    assert found.findings[0].what == "the pre-tokenizer is gpt-2; the base's is smollm"
    assert 0 < found.findings[0].affected < 1
    assert "sample texts become other tokens" in found.findings[0].cost


def test_a_pre_tokenizer_that_splits_alike_is_no_fault(
    small: Path, plain: Path, known: Known, examined: FileDoctor, tmp_path: Path
) -> None:
    alike = edited(plain, tmp_path / "planted.gguf", {"tokenizer.ggml.pre": "codeshell"})
    found = examined(alike, known(small))
    assert not found.findings
    assert any("none of 32 sample texts" in healthy.what for healthy in found.healthy)


def test_changed_merges(small: Path, plain: Path, known: Known, examined: FileDoctor, tmp_path: Path) -> None:
    merges = with_items(plain, "tokenizer.ggml.merges", lambda items: [*items[:200], *items[260:], *items[200:260]])
    found = examined(edited(plain, tmp_path / "planted.gguf", {"tokenizer.ggml.merges": merges}), known(small))
    assert codes(found) == ["MERGES_DIFFER"]
    assert found.findings[0].organ is Organ.TOKENIZER


def test_special_tokens_that_are_plain_text(
    small: Path, plain: Path, known: Known, examined: FileDoctor, tmp_path: Path
) -> None:
    def retyped(items: list[Scalar]) -> list[Scalar]:
        return [1 if index in (4, 5) else item for index, item in enumerate(items)]

    types = with_items(plain, "tokenizer.ggml.token_type", retyped)
    found = examined(edited(plain, tmp_path / "planted.gguf", {"tokenizer.ggml.token_type": types}), known(small))
    assert codes(found) == ["TOKEN_TYPES"]
    assert "'<reponame>' for one" in found.findings[0].what


def test_a_vocabulary_cut_short(small: Path, plain: Path, known: Known, examined: FileDoctor, tmp_path: Path) -> None:
    cut = {
        f"tokenizer.ggml.{name}": with_items(plain, f"tokenizer.ggml.{name}", lambda items: items[:49000])
        for name in ("tokens", "token_type")
    }
    found = examined(edited(plain, tmp_path / "planted.gguf", cut), known(small))
    assert codes(found) == ["VOCABULARY_ROWS"]
    assert found.findings[0].what.startswith("49000 tokens and 49152 rows of the embedding")
    assert {missing.organ for missing in found.not_checked} >= {Organ.TOKENIZER}


def test_tokens_with_other_texts(small: Path, plain: Path, known: Known, examined: FileDoctor, tmp_path: Path) -> None:
    swapped = with_items(plain, "tokenizer.ggml.tokens", lambda items: [*items[:50], items[51], items[50], *items[52:]])
    found = examined(edited(plain, tmp_path / "planted.gguf", {"tokenizer.ggml.tokens": swapped}), known(small))
    assert codes(found) == ["TOKENS_DIFFER"]
    assert found.findings[0].what.startswith("2 of 49152 tokens")


def test_a_vocabulary_that_was_resized_in_training(
    small: Path, plain: Path, known: Known, examined: FileDoctor, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    resized = tmp_path / "resized"
    shutil.copytree(small, resized)
    weights = load_file(resized / "model.safetensors")
    name = "model.embed_tokens.weight"
    weights[name] = torch.cat([weights[name], weights[name][:64]])
    save_file(weights, resized / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((resized / "config.json").read_text()) | {"vocab_size": 49216}
    (resized / "config.json").write_text(json.dumps(config))
    found = examined(plain, known(resized))
    assert codes(found) == ["VOCABULARY_SIZE"]
    assert found.findings[0].what == "49152 tokens; the base has 49216"


def test_another_base(tiny: Callable[[str], Path], plain: Path, known: Known, examined: FileDoctor) -> None:
    found = examined(plain, known(tiny("qwen3")))
    assert codes(found) == ["WRONG_BASE"]
    assert found.findings[0].what.startswith("the model is llama, 64 wide")
    assert "tiny-qwen3 is qwen3" in found.findings[0].what
    assert {missing.organ for missing in found.not_checked} >= {Organ.ARCHITECTURE, Organ.TOKENIZER, Organ.TEMPLATE}


def test_a_name_that_promises_more(
    small: Path, plain: Path, known: Known, examined: FileDoctor, tmp_path: Path
) -> None:
    found = examined(quantized(plain, tmp_path / "tiny-Q8_0.gguf", Q4_0), known(small))
    assert codes(found) == ["QUANT_LABEL"]
    assert "promises q8_0, and the file holds q4_0" in found.findings[0].what
    assert found.findings[0].severity is Severity.SERIOUS


def test_a_header_that_promises_more(
    small: Path, plain: Path, known: Known, examined: FileDoctor, tmp_path: Path
) -> None:
    coarse = quantized(plain, tmp_path / "coarse.gguf", Q4_0)
    found = examined(edited(coarse, tmp_path / "planted.gguf", {"general.file_type": Q8_0}), known(small))
    assert codes(found) == ["QUANT_MISLABELLED"]
    assert "general.file_type says q8_0, and " in found.findings[0].what


def test_too_few_bits_for_a_small_model() -> None:
    tensor = GgufTensor(name="blk.0.ffn_up.weight", shape=(1024, 256), type=GgmlType.Q2_K, offset=0, size_bytes=86016)
    file_type = MetadataEntry(key="general.file_type", type=ValueType.UINT32, value=Q2_K)
    header = GgufHeader(version=3, alignment=32, metadata=(file_type,), tensors=(tensor,), data_offset=0)
    (finding,) = examine_quantization(Patient(name="tiny.gguf", header=header)).findings
    assert finding.code == "QUANT_TOO_SMALL"
    assert finding.what == "2.6 bits a weight in a model of 0 million weights"


def test_a_file_that_ends_early(small: Path, plain: Path, known: Known, examined: FileDoctor, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(plain.read_bytes()[:-4096])
    found = examined(cut, known(small))
    assert codes(found) == ["GGUF_DAMAGED"]
    assert "ends inside tensor" in found.findings[0].what


def test_a_file_without_a_fault(small: Path, plain: Path, known: Known, examined: FileDoctor) -> None:
    found = examined(plain, known(small))
    assert not found.findings
    assert {Organ.CONTEXT, Organ.SAMPLING} <= {missing.organ for missing in found.not_checked}


@pytest.mark.parametrize(
    ("promised", "said", "kept"),
    [
        ("q4_k_m", "q4_k_m", True),
        ("q4_k_m", "q4_k_s", False),
        ("q4_k", "q4_k_m", True),
        ("q4_k_xl", "q4_k_m", True),
        ("q6_k_l", "q6_k", True),
        ("q2_k_l", "q2_k", True),
        ("q3_k_xl", "q3_k_l", True),
        ("q4_k", "q5_k_m", False),
        ("q8_0", "q4_0", False),
    ],
)
def test_a_name_promises_a_type_or_a_family_of_mixtures(promised: str, said: str, kept: bool) -> None:
    assert promise_kept(promised, said) is kept


@pytest.mark.parametrize("name", ["m-UD-Q4_K_XL", "m-Q6_K_L", "m-Q4_K", "m-Q4_K_M-00001-of-00002"])
def test_names_as_they_are_published_promise_what_their_header_says(name: str, plain: Path, tmp_path: Path) -> None:
    said = {"m-Q6_K_L": 18}.get(name, 15)
    header = read_gguf(edited(plain, tmp_path / "x.gguf", {"general.file_type": said}))
    findings = examine_quantization(Patient(name=f"{name}.gguf", header=header)).findings
    assert "QUANT_LABEL" not in [finding.code for finding in findings]
