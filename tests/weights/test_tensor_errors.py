"""Files as they should be have no fault, whoever made them; every planted fault is named."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from packager.artifacts import Dtype, Quant
from packager.errors import InputInvalid
from packager.events import Advanced, Event
from packager.formats.checkpoint import read_checkpoint
from packager.formats.gguf import GGML_TYPE_SIZES, GgmlType, header_bytes, read_gguf
from packager.quants import DEFAULT_QUANTS
from packager.sources.llama_cpp_tree import LlamaCppTree
from packager.stages.weights import MergeJob, merge
from packager.weights.llama_library import llama_library
from packager.weights.tensor_errors import MergedModel, TensorComparison, tensor_errors
from tests.changed_ggufs import tensor_of, values, with_bytes, with_values
from tests.llama_cpp_tools import convert, quantize
from tests.made_ggufs import Made, make_ggufs

FAMILY = "llama3.1"  # its queries and keys are permuted
RENAMED = {"blk.1.ffn_down.weight": "layers.1.mlp.down_proj", "blk.0.attn_v.weight": "layers.0.self_attn.v_proj"}
LINEAR = 7 * 2  # projections of two layers, all of them adapted

Tiny = Callable[[str], Path]


@pytest.fixture(scope="module")
def made(tiny_build: Callable[[str], Made]) -> Made:
    return tiny_build(FAMILY)


@pytest.fixture(scope="module")
def model(made: Made, tree: LlamaCppTree) -> Iterator[MergedModel]:
    with MergedModel(made.base, made.adapter, tree) as opened:
        yield opened


@pytest.fixture(scope="module")
def peft_weights(tiny: Tiny, tiny_lora: Tiny) -> dict[str, torch.Tensor]:
    """What peft itself merges."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny(FAMILY), dtype=torch.float32)
    return PeftModel.from_pretrained(base, tiny_lora(FAMILY)).merge_and_unload().state_dict()


def has_nothing_to_say(found: TensorComparison) -> bool:
    return not (found.faults or found.missing or found.unexpected or found.reshaped or found.unread or found.worst)


def texts(found: TensorComparison) -> dict[str, str]:
    return {fault.tensor: fault.text for fault in found.faults}


# --- as it should be -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quant", list(DEFAULT_QUANTS), ids=lambda quant: quant.value)
def test_errors_are_those_of_gguf_py_against_peft(
    quant: Quant, made: Made, model: MergedModel, peft_weights: dict[str, torch.Tensor]
) -> None:
    path = made.gguf(quant).path
    found = model.compare(path)
    assert has_nothing_to_say(found)
    assert [(e.tensor, e.type) for e in found.tensors] == [(t.name, t.type.name) for t in read_gguf(path).tensors]
    assert all(error.relative_error == error.expected_error for error in found.tensors)
    assert {error.layer for error in found.tensors} == {None, 0, 1}
    errors = {error.tensor: error.relative_error for error in found.tensors}
    for tensor, source in RENAMED.items():
        merged = peft_weights[f"model.{source}.weight"].double().numpy()
        off = np.linalg.norm(values(path, tensor) - merged) / np.linalg.norm(merged)
        assert errors[tensor] == pytest.approx(off, rel=2e-3)


@pytest.mark.parametrize(
    ("family", "dtype"),
    [("qwen2.5", Dtype.BFLOAT16), ("qwen3", Dtype.FLOAT16)],
    ids=["qwen2.5-bfloat16", "qwen3-float16"],
)
def test_what_llama_cpp_s_programs_make_has_no_fault(
    family: str, dtype: Dtype, tiny_build: Callable[[str], Made], tree: LlamaCppTree, tmp_path: Path
) -> None:
    """The usual chain: a merged checkpoint in 16 bits, convert_hf_to_gguf.py to 16 bits, llama-quantize."""
    build, merged = tiny_build(family), tmp_path / "hf"
    merged.mkdir()
    merge(MergeJob(base=build.base, adapter=build.adapter, dtype=dtype, output=merged, chat_template=None))
    kind = {Dtype.BFLOAT16: "bf16", Dtype.FLOAT16: "f16"}[dtype]
    files = [convert(tree, merged, kind, tmp_path / "source.gguf")]
    files += [quantize(files[0], tmp_path / f"{quant}.gguf", quant) for quant in (Quant.Q8_0, Quant.Q4_K_M)]
    with MergedModel(build.base, build.adapter, tree) as opened:
        for file in files:
            assert has_nothing_to_say(opened.compare(file)), texts(opened.compare(file))


def with_importance(source: Path, target: Path, spread: float) -> Path:
    """Quantize every quantized tensor again from its own values, by llama.cpp's kernel with an importance matrix."""
    shutil.copy(source, target)
    random = np.random.default_rng(5)
    for tensor in read_gguf(source).tensors:
        if tensor.type in (GgmlType.F32, GgmlType.F16):
            continue
        data = np.ascontiguousarray(values(source, tensor.name), np.float32)
        rows, columns = data.shape
        importance = np.exp(random.normal(size=columns) * spread).astype(np.float32)
        packed = np.empty(tensor.size_bytes, np.uint8)
        arguments = (int(tensor.type), data.ctypes.data, packed.ctypes.data, 0, rows, columns, importance.ctypes.data)
        llama_library().quantize_chunk(*arguments)
        with_bytes(target, tensor.offset, packed.tobytes(), target)
    return target


@pytest.mark.parametrize("quant", [Quant.Q8_0, Quant.Q4_K_M], ids=lambda quant: quant.value)
def test_an_importance_matrix_is_no_fault(quant: Quant, made: Made, model: MergedModel, tmp_path: Path) -> None:
    """Real ones spread by a factor of e to 1 or 2."""
    source = made.gguf(quant).path
    path = with_importance(source, tmp_path / "importance.gguf", spread=1.5)
    assert quant is Quant.Q8_0 or path.read_bytes() != source.read_bytes()
    assert has_nothing_to_say(model.compare(path)), texts(model.compare(path))


# --- the adapter ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        pytest.param(0, "the adapter's update is missing", id="missing"),
        pytest.param(2, "the adapter's update is there 2.0", id="twice"),
    ],
)
def test_another_scale_is_named_in_every_adapted_tensor(
    factor: int, expected: str, tiny: Tiny, tiny_lora: Tiny, model: MergedModel, tmp_path: Path
) -> None:
    lora = None
    if factor:
        lora = Path(shutil.copytree(tiny_lora(FAMILY), tmp_path / "lora"))
        config = json.loads((lora / "adapter_config.json").read_text())
        (lora / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": factor * config["lora_alpha"]}))
    for gguf in make_ggufs(tiny(FAMILY), lora, (Quant.F16, Quant.Q4_K_M), tmp_path).ggufs:
        found = model.compare(gguf.path)
        assert len(found.faults) == LINEAR
        for tensor, text in texts(found).items():
            # rounding to 4 bits of rows this short leaves a few percent of the update undecided
            shown = text if gguf.quant is not Quant.Q4_K_M else text.replace("1.9", "2.0")
            assert shown.startswith(expected[: None if gguf.quant is Quant.F16 else -1]), (gguf.quant, tensor, text)
        assert {error.tensor for error in found.worst} == set(texts(found))


def test_one_skipped_tensor_is_the_only_one_named(made: Made, model: MergedModel, tiny: Tiny, tmp_path: Path) -> None:
    plain = make_ggufs(tiny(FAMILY), None, (Quant.F16,), tmp_path / "base").ggufs[0].path
    name = "blk.1.attn_q.weight"  # the converter computes it whole
    path = with_values(made.gguf(Quant.F16).path, name, values(plain, name), tmp_path / "skipped.gguf")
    assert texts(model.compare(path)) == {name: "the adapter's update is missing"}


def test_without_an_adapter_the_base_is_what_a_file_should_hold(tiny: Tiny, made: Made, tree: LlamaCppTree) -> None:
    found = tensor_errors(made.gguf(Quant.F16).path, read_checkpoint(tiny(FAMILY)), None, tree)
    assert len(found.faults) == LINEAR
    assert all("further off than rounding explains" in text for text in texts(found).values())


# --- rows ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quant", "name"),
    [(Quant.F16, "blk.0.attn_q.weight"), (Quant.Q4_K_M, "blk.1.attn_k.weight")],
    ids=["f16-queries", "q4_k_m-keys"],
)
def test_rows_without_their_permutation_are_named(
    quant: Quant, name: str, made: Made, model: MergedModel, tmp_path: Path
) -> None:
    source = made.gguf(quant).path
    data, heads = values(source, name), 4 if "attn_q" in name else 2
    plain = data.reshape(heads, -1, 2, data.shape[1]).swapaxes(1, 2).reshape(data.shape)
    twice = data.reshape(heads, 2, -1, data.shape[1]).swapaxes(1, 2).reshape(data.shape)
    for changed, words in ((plain, "are not permuted"), (twice, "are permuted once too often")):
        found = model.compare(with_values(source, name, changed, tmp_path / f"{quant}.gguf"))
        assert texts(found) == {name: f"its rows {words} for llama.cpp's rotary embedding"}


@pytest.mark.parametrize("quant", list(DEFAULT_QUANTS), ids=lambda quant: quant.value)
def test_a_corrupt_block_in_one_row_is_found(quant: Quant, made: Made, model: MergedModel, tmp_path: Path) -> None:
    name, row = "blk.1.ffn_down.weight", 37
    tensor = tensor_of(made.gguf(quant).path, name)
    elements, size = GGML_TYPE_SIZES[tensor.type]
    row_bytes = tensor.shape[1] // elements * size
    values_bytes = 32 * size // elements - 2  # those of 32 weights, and no scale
    offset = tensor.offset + (row + 1) * row_bytes - values_bytes
    if tensor.type is GgmlType.Q6_K:  # its scales are at the end
        offset = tensor.offset + row * row_bytes
    path = with_bytes(made.gguf(quant).path, offset, b"\x55" * values_bytes, tmp_path / "corrupt.gguf")
    found = model.compare(path)
    assert list(texts(found)) == [name]
    assert f"row {row} of 64 is further off than rounding explains" in texts(found)[name]
    (worst,) = found.worst
    assert (worst.tensor, worst.worst_row) == (name, row)
    assert worst.relative_error > worst.expected_error


def test_a_value_that_is_not_finite_is_found(made: Made, model: MergedModel, tmp_path: Path) -> None:
    source, name = made.gguf(Quant.F16).path, "blk.0.ffn_up.weight"
    tensor = tensor_of(source, name)
    place = tensor.offset + 5 * tensor.shape[1] * 2
    found = model.compare(with_bytes(source, place, struct.pack("<e", float("nan")), tmp_path / "nan.gguf"))
    (worst,) = found.worst
    assert (worst.tensor, worst.worst_row, worst.relative_error) == (name, 5, np.finfo(np.float64).max)


# --- which tensors -------------------------------------------------------------------------------------------------------


def test_tensors_too_many_too_few_and_misshapen_are_told(made: Made, model: MergedModel, tmp_path: Path) -> None:
    source = made.gguf(Quant.F16).path
    header, data = read_gguf(source), source.read_bytes()
    listed = [(tensor.name, tensor.shape, tensor.type) for tensor in header.tensors]
    changes = {
        "blk.1.ffn_norm.weight": ("blk.7.ffn_norm.weight", (64,), GgmlType.F32),
        "blk.1.ffn_up.weight": ("blk.1.ffn_up.weight", (128, 128), GgmlType.F16),
        "blk.0.ffn_up.weight": ("blk.0.ffn_up.weight", (256, 64), GgmlType.I16),
        "blk.0.ffn_down.weight": ("blk.0.ffn_down.weight", (64, 256), GgmlType.IQ2_XXS),
    }
    path = tmp_path / "odd.gguf"
    path.write_bytes(header_bytes(header.metadata, [changes.get(each[0], each) for each in listed]))
    with path.open("ab") as file:
        file.write(data[header.data_offset :])
    found = model.compare(path)
    assert found.missing == ("blk.1.ffn_norm.weight",)
    assert found.unexpected == ("blk.7.ffn_norm.weight",)
    assert found.reshaped == ("blk.1.ffn_up.weight is (128, 128), not (256, 64)",)
    assert set(found.unread) == {"blk.0.ffn_up.weight (I16)", "blk.0.ffn_down.weight (IQ2_XXS)"}
    assert len(found.tensors) == len(listed) - 4


def test_a_file_that_is_cut_short_is_refused(made: Made, model: MergedModel, tmp_path: Path) -> None:
    path = tmp_path / "short.gguf"
    path.write_bytes(made.gguf(Quant.F16).path.read_bytes()[:-4096])
    with pytest.raises(InputInvalid, match="ends inside tensor"):
        model.compare(path)


def test_progress_counts_the_bytes_of_all_tensors(made: Made, model: MergedModel) -> None:
    events: list[Event] = []
    model.compare(made.gguf(Quant.Q8_0).path, emit=events.append)
    advanced = [event for event in events if isinstance(event, Advanced)]
    total = sum(tensor.size_bytes for tensor in read_gguf(made.gguf(Quant.Q8_0).path).tensors)
    assert (advanced[-1].done, advanced[-1].total, advanced[-1].unit) == (total, total, "B")
