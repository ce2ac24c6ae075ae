"""For every architecture: what one pass gives is what llama.cpp's own tools give, and the merge is peft's."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from packager.artifacts import Checkpoint, Dtype, Quant
from packager.formats.adapter import read_adapter
from packager.formats.checkpoint import read_checkpoint
from packager.sources.llama_cpp_tree import LlamaCppTree
from packager.stages.weights import MergeJob, QuantizeJob, merge, quantize
from tests import llama_cpp_tools as llama
from tests.architecture_table import ARCHITECTURES
from tests.architectures import (
    ALPHA,
    RANK,
    make_architecture,
    make_architecture_lora,
    make_peft_lora,
    merge_with_peft,
    tree_that_knows,
)

# The converter guesses these from the folder's name, which is an accident; packager never does.
FROM_FOLDER_NAME = {"general.name", "general.basename", "general.finetune", "general.version", "general.size_label"}
# Its class is the only one that leaves general.file_type out of an f16 file; llama.cpp's quantizer writes it into every other.
WITHOUT_FILE_TYPE = {"gpt-neox"}

# llama.cpp's converter leaves tokenizer.model open when it converts an InternLM2.
pytestmark = pytest.mark.filterwarnings("ignore:.*tokenizer.model:pytest.PytestUnraisableExceptionWarning")
each_architecture = pytest.mark.parametrize("name", ARCHITECTURES)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("architectures")


@pytest.fixture(scope="module")
def checkpoint(outputs: Path) -> Callable[[str], Path]:
    @functools.cache
    def make(name: str) -> Path:
        make_architecture(name, outputs / name)
        return outputs / name

    return make


@pytest.fixture(scope="module")
def lora(outputs: Path, checkpoint: Callable[[str], Path]) -> Callable[[str], Path]:
    @functools.cache
    def make(name: str) -> Path:
        make_architecture_lora(name, checkpoint(name), outputs / f"{name}-lora")
        return outputs / f"{name}-lora"

    return make


@pytest.fixture(scope="module")
def knowing_tree(tree: LlamaCppTree, checkpoint: Callable[[str], Path], outputs: Path) -> LlamaCppTree:
    with_bpe = (name for name, made in ARCHITECTURES.items() if not made.sentencepiece)
    return tree_that_knows(tree, map(checkpoint, with_bpe), outputs / "tree")


@pytest.fixture(scope="module")
def converter(knowing_tree: LlamaCppTree, outputs: Path) -> Iterator[llama.ConverterProgram]:
    with llama.ConverterProgram(knowing_tree, outputs / "converter.log") as program:
        yield program


@pytest.fixture(scope="module")
def merged(checkpoint: Callable[[str], Path], lora: Callable[[str], Path], outputs: Path) -> Callable[[str], Path]:
    """`merged(name)`: base + LoRA in float32, as `packager merge` writes it."""

    @functools.cache
    def make(name: str) -> Path:
        return merged_with(checkpoint(name), lora(name), outputs / f"{name}-merged")

    return make


def merged_with(checkpoint: Path, lora: Path, output: Path) -> Path:
    base = read_checkpoint(checkpoint)
    output.mkdir()
    adapter = read_adapter(lora, base)
    merge(MergeJob(base=base, adapter=adapter, dtype=Dtype.FLOAT32, output=output, chat_template=None))
    return output


def built(base: Checkpoint, lora: Path | None, tree: LlamaCppTree, output: Path) -> dict[Quant, Path]:
    output.mkdir()
    job = QuantizeJob(
        base=base,
        adapter=read_adapter(lora, base) if lora else None,
        quants=(Quant.F16, Quant.Q8_0, Quant.Q4_K_M),
        template=None,
        name="",
        file_stem="model",
        output=output,
        tree=tree,
    )
    return {gguf.quant: gguf.path for gguf in quantize(job)}


def as_written(name: str, checkpoint: Path, folder: Path) -> Path:
    """The checkpoint, in a form whose config.json the converter reads as it stands where transformers 5 loses keys of it.

    convert_hf_to_gguf.py asks transformers for the configuration, and reads the file only if transformers does not know the
    model type. rotary_pct of GPT-NeoX, which it needs, is not in what transformers 5 gives.
    """
    if not ARCHITECTURES[name].written:
        return checkpoint
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "unknown_to_transformers"}))
    return folder


def assert_same(
    name: str, ours: dict[Quant, Path], source: Path, converter: llama.ConverterProgram, folder: Path
) -> None:
    """Every tensor byte for byte and every metadata key, against llama.cpp's own tools run on `source`."""
    source = as_written(name, source, folder / "source")
    theirs = {Quant.F16: converter.convert(source, "f16", folder / "f16.gguf")}
    f32 = converter.convert(source, "f32", folder / "f32.gguf")
    for quant in (Quant.Q8_0, Quant.Q4_K_M):
        theirs[quant] = llama.quantize(f32, folder / f"{quant.value}.gguf", quant)
    for quant, path in theirs.items():
        # The converter writes two dimensions for a matrix of one row; llama.cpp, also where it only copies, writes one.
        tensors = llama.quantize(path, folder / "copied.gguf", None) if quant is Quant.F16 else path
        assert llama.differing_tensors(ours[quant], tensors) == [], quant
        excepted = {"general.file_type"} if quant is Quant.F16 and name in WITHOUT_FILE_TYPE else set()
        assert llama.differing_keys(ours[quant], path) <= FROM_FOLDER_NAME | excepted, quant


@each_architecture
def test_a_base_is_what_llama_cpp_makes(
    name: str,
    checkpoint: Callable[[str], Path],
    knowing_tree: LlamaCppTree,
    converter: llama.ConverterProgram,
    tmp_path: Path,
) -> None:
    base = read_checkpoint(checkpoint(name))
    ours = built(base, None, knowing_tree, tmp_path / "ours")
    assert_same(name, ours, base.folder, converter, tmp_path)


@each_architecture
def test_base_and_lora_are_what_llama_cpp_makes_of_our_float32_merge(
    name: str,
    checkpoint: Callable[[str], Path],
    lora: Callable[[str], Path],
    merged: Callable[[str], Path],
    knowing_tree: LlamaCppTree,
    converter: llama.ConverterProgram,
    tmp_path: Path,
) -> None:
    ours = built(read_checkpoint(checkpoint(name)), lora(name), knowing_tree, tmp_path / "ours")
    assert_same(name, ours, merged(name), converter, tmp_path)
    for path in ours.values():  # so that Ollama, which runs `llama-quantize ... COPY`, keeps our digest
        assert llama.sha256(llama.quantize(path, tmp_path / "copy", None)) == llama.sha256(path)


@each_architecture
def test_the_merge_is_the_sum_in_float64(
    name: str, checkpoint: Callable[[str], Path], lora: Callable[[str], Path], merged: Callable[[str], Path]
) -> None:
    before = load_file(checkpoint(name) / "model.safetensors")
    pairs = load_file(lora(name) / "adapter_model.safetensors")
    after = load_file(merged(name) / "model.safetensors")
    assert after.keys() == before.keys()
    for key, weight in before.items():
        module = f"base_model.model.{key.removesuffix('.weight')}"
        expected = weight.to(torch.float64)
        if f"{module}.lora_A.weight" in pairs:
            a, b = (pairs.pop(f"{module}.lora_{side}.weight").to(torch.float64) for side in "AB")
            update = ALPHA / RANK * (b @ a)
            expected += update.T if ARCHITECTURES[name].transposed else update
        assert_close(after[key], expected, key)
    assert pairs == {}


@pytest.mark.parametrize("name", [name for name, made in ARCHITECTURES.items() if made.shapes is None])
@pytest.mark.filterwarnings(
    "ignore:The following .*_pattern keys did not match"
)  # peft's own, of parameters it did match
def test_the_merge_is_pefts(name: str, checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    make_peft_lora(name, checkpoint(name), tmp_path / "lora")
    theirs = merge_with_peft(name, checkpoint(name), tmp_path / "lora", tmp_path / "theirs")
    ours = load_file(merged_with(checkpoint(name), tmp_path / "lora", tmp_path / "ours") / "model.safetensors")
    before = load_file(checkpoint(name) / "model.safetensors")
    assert ours.keys() == theirs.keys() == before.keys()
    for key, expected in theirs.items():
        assert_close(ours[key], expected, key)


@pytest.mark.filterwarnings("ignore:The following .*_pattern keys did not match")  # as above
@pytest.mark.parametrize("name", ["qwen3-moe", "mixtral", "olmoe"])
def test_adapters_made_with_transformers_4_are_merged_as_peft_merges_them(
    name: str,
    checkpoint: Callable[[str], Path],
    lora: Callable[[str], Path],
    merged: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    """There every expert was a module of its own; peft 0.21 fuses their updates when it loads them."""
    theirs = merge_with_peft(name, checkpoint(name), lora(name), tmp_path / "theirs")
    for key, ours in load_file(merged(name) / "model.safetensors").items():
        assert_close(ours, theirs[key], key)


@pytest.mark.parametrize("name", ["qwen3-moe", "mixtral", "granite-moe", "gpt-oss"])
def test_experts_trained_together_are_what_llama_cpp_makes_of_our_float32_merge(
    name: str,
    checkpoint: Callable[[str], Path],
    knowing_tree: LlamaCppTree,
    converter: llama.ConverterProgram,
    tmp_path: Path,
) -> None:
    """Where the checkpoint has every expert apart, and where it has them stacked, rows or columns first."""
    make_peft_lora(name, checkpoint(name), tmp_path / "lora")
    source = merged_with(checkpoint(name), tmp_path / "lora", tmp_path / "merged")
    ours = built(read_checkpoint(checkpoint(name)), tmp_path / "lora", knowing_tree, tmp_path / "ours")
    assert_same(name, ours, source, converter, tmp_path)


def assert_close(ours: torch.Tensor, expected: torch.Tensor, name: str) -> None:
    """Equal to 1e-6 of the largest value."""
    assert (ours.to(torch.float64) - expected.to(torch.float64)).abs().max() <= 1e-6 * expected.abs().max(), name
