"""Faults of the weights: planted by peft, llama.cpp's quantizer and a failing disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from packager.doctor.case import Reference
from packager.doctor.finding import Organ
from packager.doctor.weights import examined_weights
from packager.sources.llama_cpp_tree import LlamaCppTree
from packager.weights.tensor_errors import TensorComparison
from tests.doctor.conftest import FileDoctor
from tests.doctor.planted import Q4_0, Q8_0, flip_bytes, quantized
from tests.doctor.test_in_ollama import codes
from tests.llama_cpp_tools import convert

Known = Callable[..., Reference]


def merged(base: Path, adapter: Path, tree: LlamaCppTree, folder: Path) -> Path:
    """Merge with peft, save, and convert, as people do without packager."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(base / name, folder)
    return convert(tree, folder, "f16", folder.with_suffix(".gguf"))


@pytest.fixture(scope="module")
def right(small: Path, small_lora: Path, tree: LlamaCppTree, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return merged(small, small_lora, tree, tmp_path_factory.mktemp("merged") / "right")


@pytest.mark.parametrize("file_type", [None, Q8_0, Q4_0], ids=["f16", "q8_0", "q4_0"])
def test_a_merge_by_peft_is_healthy(
    file_type: int | None,
    right: Path,
    small: Path,
    small_lora: Path,
    known: Known,
    examined: FileDoctor,
    tmp_path: Path,
) -> None:
    file = right if file_type is None else quantized(right, tmp_path / "quant.gguf", file_type)
    found = examined(file, known(small, small_lora))
    assert not found.findings
    assert any(h.organ is Organ.WEIGHTS and "small + small-lora" in h.what for h in found.healthy)


@pytest.mark.parametrize("file_type", [None, Q8_0, Q4_0], ids=["f16", "q8_0", "q4_0"])
def test_an_adapter_that_was_not_merged(
    file_type: int | None,
    small: Path,
    small_lora: Path,
    plain: Path,
    known: Known,
    examined: FileDoctor,
    tmp_path: Path,
) -> None:
    file = plain if file_type is None else quantized(plain, tmp_path / "quant.gguf", file_type)
    found = examined(file, known(small, small_lora))
    assert codes(found) == ["ADAPTER_MISSING"]
    assert "the update of small-lora is missing in 14 of the 14 tensors" in found.findings[0].what


def test_a_wrong_scale(
    small: Path, small_lora: Path, tree: LlamaCppTree, known: Known, examined: FileDoctor, tmp_path: Path
) -> None:
    shutil.copytree(small_lora, tmp_path / "lora")
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    config["lora_alpha"] *= 2
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(config))
    found = examined(merged(small, tmp_path / "lora", tree, tmp_path / "wrong"), known(small, small_lora))
    assert codes(found) == ["ADAPTER_SCALE"]
    assert found.findings[0].what.startswith("the adapter is merged 2 times in 14 of the 14 tensors that it changes")


def test_a_damaged_tensor_is_named(
    right: Path, small: Path, small_lora: Path, known: Known, examined: FileDoctor, tmp_path: Path
) -> None:
    shutil.copy(right, tmp_path / "damaged.gguf")
    flip_bytes(tmp_path / "damaged.gguf", "blk.1.ffn_down.weight")
    found = examined(tmp_path / "damaged.gguf", known(small, small_lora))
    assert codes(found) == ["TENSOR_DAMAGED"]
    assert found.findings[0].what.startswith("blk.1.ffn_down.weight: ")
    assert "row" in found.findings[0].what


def test_weights_that_were_rounded_twice(
    right: Path, small: Path, small_lora: Path, known: Known, examined: FileDoctor, tmp_path: Path
) -> None:
    coarse = quantized(right, tmp_path / "coarse.gguf", Q4_0)
    found = examined(quantized(coarse, tmp_path / "fine.gguf", Q8_0), known(small, small_lora))
    assert codes(found) == ["ROUNDED_TWICE"]
    assert "rounded to a coarser type before" in found.findings[0].what


def test_another_fine_tune_of_the_same_shape(
    small: Path, plain: Path, known: Known, examined: FileDoctor, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(small, tmp_path / "other")
    weights = load_file(tmp_path / "other" / "model.safetensors")
    torch.manual_seed(7)
    other = {name: torch.randn_like(w) * w.std() if w.dim() > 1 else w for name, w in weights.items()}
    save_file(other, tmp_path / "other" / "model.safetensors", metadata={"format": "pt"})
    found = examined(plain, known(tmp_path / "other"))
    assert codes(found) == ["OTHER_WEIGHTS"]


def test_tensors_that_no_kernel_reads_are_not_healthy(small: Path, small_lora: Path, known: Known) -> None:
    read = TensorComparison(
        tensors=(), faults=(), missing=(), unexpected=(), reshaped=(),
        unread=tuple(f"blk.{n}.ffn_up.weight (IQ2_XXS)" for n in range(7)),
    )  # fmt: skip
    found = examined_weights(read, known(small, small_lora))
    assert (found.healthy, found.findings) == ((), ())
    (missing,) = found.not_checked
    assert "blk.0.ffn_up.weight (IQ2_XXS)" in missing.why
    assert missing.why.endswith("and 2 more")
