from __future__ import annotations

import dataclasses
import json
import math
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from packager.artifacts import ChatTemplate, Checkpoint, Dtype, Gguf, Pin, Quant
from packager.errors import InputInvalid, NoSpace, Unsupported
from packager.events import Advanced, Event, Noted
from packager.formats.adapter import read_adapter
from packager.formats.checkpoint import read_checkpoint
from packager.formats.gguf import read_gguf
from packager.quants import DEFAULT_QUANTS
from packager.sources.llama_cpp_tree import LlamaCppTree
from packager.stages.weights import (
    MergeJob,
    QuantizeJob,
    estimate,
    gguf_name,
    merge,
    peak_memory_bytes,
    quantize,
    supported_architecture,
)
from tests import llama_cpp_tools as llama
from tests.weights.made_checkpoints import pairs

FAMILIES = ["qwen2.5", "qwen3", "llama3.1"]
ALL = DEFAULT_QUANTS
TEMPLATE = ChatTemplate(
    source="a test",
    original_sha256="0" * 64,
    text="{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}",
    pins=(Pin(name="x", value="1", reason="y"),),
    stops=("</s>",),
    adds_bos=True,
)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


def job(
    base: Checkpoint, tree: LlamaCppTree, output: Path, adapter: Path | None = None, **changes: object
) -> QuantizeJob:
    output.mkdir(parents=True, exist_ok=True)
    made = QuantizeJob(
        base=base,
        adapter=read_adapter(adapter, base) if adapter else None,
        quants=ALL,
        template=None,
        name="",
        file_stem="model",
        output=output,
        tree=tree,
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def assert_same_as_llama_cpp(ggufs: tuple[Gguf, ...], checkpoint: Path, tree: LlamaCppTree, folder: Path) -> None:
    """Every tensor byte for byte, and every metadata key, apart from the folder's name in general.name and the like."""
    by_quant = {gguf.quant: gguf.path for gguf in ggufs}
    from_folder_name = {"general.name", "general.basename", "general.finetune", "general.version", "general.size_label"}
    f16 = llama.convert(tree, checkpoint, "f16", folder / "f16.gguf")
    assert llama.differing_tensors(by_quant[Quant.F16], f16) == []
    assert llama.differing_keys(by_quant[Quant.F16], f16) <= from_folder_name
    f32 = llama.convert(tree, checkpoint, "f32", folder / "f32.gguf")
    for quant in (Quant.Q8_0, Quant.Q4_K_M):
        theirs = llama.quantize(f32, folder / f"{quant.value}.gguf", quant)
        assert llama.differing_tensors(by_quant[quant], theirs) == []
        assert llama.differing_keys(by_quant[quant], theirs) <= from_folder_name
        theirs.unlink()
    f16.unlink()
    f32.unlink()


def test_smollm2_is_what_llama_cpp_makes(smollm2: Path, tree: LlamaCppTree, outputs: Path) -> None:
    base = read_checkpoint(smollm2)
    ggufs = quantize(job(base, tree, outputs / "smollm2"))
    assert_same_as_llama_cpp(ggufs, smollm2, tree, outputs)


def test_smollm2_with_its_lora_is_what_llama_cpp_makes_of_our_float32_merge(
    smollm2: Path, smollm2_lora: Path, tree: LlamaCppTree, outputs: Path
) -> None:
    base = read_checkpoint(smollm2)
    made = job(base, tree, outputs / "smollm2-lora", smollm2_lora)
    merged = outputs / "smollm2-merged"
    merged.mkdir()
    merge(MergeJob(base=base, adapter=made.adapter, dtype=Dtype.FLOAT32, output=merged, chat_template=None))
    if (base.folder / "README.md").is_file():  # the base's model card gives licence and tags to the GGUF
        shutil.copy(base.folder / "README.md", merged)
    assert_same_as_llama_cpp(quantize(made), merged, tree, outputs)


@pytest.mark.parametrize("family", FAMILIES)
def test_tiny_models_are_what_llama_cpp_makes(
    family: str, tiny: Callable[[str], Path], tree: LlamaCppTree, outputs: Path
) -> None:
    base = read_checkpoint(tiny(family))
    ggufs = quantize(job(base, tree, outputs / family))
    assert_same_as_llama_cpp(ggufs, tiny(family), tree, outputs)


@pytest.mark.parametrize("family", ["llama3.1"])
def test_tiny_models_with_a_lora(
    family: str, tiny: Callable[[str], Path], tiny_lora: Callable[[str], Path], tree: LlamaCppTree, outputs: Path
) -> None:
    """Llama permutes q and k, so this goes the way of tensors that are computed whole."""
    base = read_checkpoint(tiny(family))
    made = job(base, tree, outputs / f"{family}-lora", tiny_lora(family))
    merged = outputs / f"{family}-merged"
    merged.mkdir()
    merge(MergeJob(base=base, adapter=made.adapter, dtype=Dtype.FLOAT32, output=merged, chat_template=None))
    if (base.folder / "README.md").is_file():  # the base's model card gives licence and tags to the GGUF
        shutil.copy(base.folder / "README.md", merged)
    assert_same_as_llama_cpp(quantize(made), merged, tree, outputs)


@pytest.mark.parametrize("family", FAMILIES)
def test_copy_leaves_every_file_unchanged(
    family: str, tiny: Callable[[str], Path], tiny_lora: Callable[[str], Path], tree: LlamaCppTree, tmp_path: Path
) -> None:
    """So Ollama's `create`, which runs `llama-quantize ... COPY`, keeps our digest."""
    base = read_checkpoint(tiny(family))
    for gguf in quantize(job(base, tree, tmp_path, tiny_lora(family), template=TEMPLATE, name="A name")):
        assert llama.sha256(gguf.path) == gguf.sha256
        assert gguf.path.stat().st_size == gguf.size_bytes
        assert llama.sha256(llama.quantize(gguf.path, tmp_path / "copy", None)) == gguf.sha256


def test_digests_depend_neither_on_threads_nor_on_the_other_outputs_nor_on_the_place(
    tiny: Callable[[str], Path], tiny_lora: Callable[[str], Path], tree: LlamaCppTree, tmp_path: Path
) -> None:
    original = read_checkpoint(tiny("llama3.1"))
    first = quantize(job(original, tree, tmp_path / "1", tiny_lora("llama3.1")), threads=1)
    elsewhere = tmp_path / "Another-Model-7B-v2"
    shutil.copytree(tiny("llama3.1"), elsewhere)
    moved = read_checkpoint(elsewhere)
    again = quantize(job(moved, tree, tmp_path / "2", tiny_lora("llama3.1")), threads=5)
    assert [gguf.sha256 for gguf in again] == [gguf.sha256 for gguf in first]
    alone = quantize(job(original, tree, tmp_path / "3", tiny_lora("llama3.1"), quants=(Quant.Q4_K_M,)))
    assert alone[0].sha256 == first[2].sha256


def test_name_template_and_bos_are_in_the_metadata(
    tiny: Callable[[str], Path], tree: LlamaCppTree, tmp_path: Path
) -> None:
    base = read_checkpoint(tiny("qwen2.5"))
    made = job(base, tree, tmp_path, quants=(Quant.Q8_0,), template=TEMPLATE, name="Qwen Packy")
    header = read_gguf(quantize(made)[0].path)
    assert header.value("general.name") == "Qwen Packy"
    assert header.value("tokenizer.chat_template") == TEMPLATE.text
    assert header.value("tokenizer.ggml.add_bos_token") is True
    assert [entry.key for entry in header.metadata][-2:] == ["general.quantization_version", "general.file_type"]
    assert header.value("general.file_type") == 7
    assert str(tmp_path) not in str(header)


def test_files_appear_under_their_names_and_progress_reaches_the_total(
    tiny: Callable[[str], Path], tree: LlamaCppTree, tmp_path: Path
) -> None:
    events: list[Event] = []
    quantize(job(read_checkpoint(tiny("qwen3")), tree, tmp_path, file_stem="Tiny"), emit=events.append)
    names = ["Tiny-F16.gguf", "Tiny-Q4_K_M.gguf", "Tiny-Q8_0.gguf"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert [gguf_name("Tiny", quant) for quant in DEFAULT_QUANTS] == [
        "Tiny-F16.gguf",
        "Tiny-Q8_0.gguf",
        "Tiny-Q4_K_M.gguf",
    ]
    advanced = [event for event in events if isinstance(event, Advanced)]
    done = [event.done for event in advanced]
    assert done == sorted(done)
    assert advanced[-1].done == advanced[-1].total
    assert {event.stage for event in advanced} == {"quantize"}


def poisoned(source: Path, output: Path, tensor: str, value: bytes) -> Checkpoint:
    """A copy of a checkpoint with one bfloat16 value of a tensor replaced."""
    shutil.copytree(source, output)
    entry = next(entry for entry in read_checkpoint(output).tensors if entry.name == tensor)
    with entry.file.open("r+b") as file:
        file.seek(entry.offset + entry.size_bytes // 2)
        file.write(value)
    return read_checkpoint(output)


@pytest.mark.parametrize(
    ("tensor", "value"),
    [
        pytest.param("model.layers.1.mlp.up_proj.weight", b"\xc0\x7f", id="nan-renamed"),
        pytest.param("model.layers.0.self_attn.q_proj.weight", b"\x80\xff", id="minus-infinity-permuted"),
        pytest.param("model.norm.weight", b"\x80\x7f", id="infinity-norm"),
    ],
)
def test_a_value_that_is_not_finite_stops_everything(
    tensor: str, value: bytes, tiny: Callable[[str], Path], tree: LlamaCppTree, tmp_path: Path
) -> None:
    base = poisoned(tiny("llama3.1"), tmp_path / "base", tensor, value)
    with pytest.raises(InputInvalid, match=tensor):
        quantize(job(base, tree, tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []
    (tmp_path / "hf").mkdir()
    with pytest.raises(InputInvalid, match=tensor):
        merge(MergeJob(base=base, adapter=None, dtype=Dtype.BFLOAT16, output=tmp_path / "hf", chat_template=None))
    assert list((tmp_path / "hf").iterdir()) == []


def test_a_value_beyond_float16_stops_f16_alone(
    tiny: Callable[[str], Path], tree: LlamaCppTree, tmp_path: Path
) -> None:
    large = struct.pack("<f", 1e5)[2:]  # as bfloat16
    base = poisoned(tiny("qwen3"), tmp_path / "base", "model.layers.0.mlp.down_proj.weight", large)
    with pytest.raises(InputInvalid, match=r"blk\.0\.ffn_down\.weight.*float16"):
        quantize(job(base, tree, tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []
    assert len(quantize(job(base, tree, tmp_path / "out", quants=(Quant.Q8_0, Quant.Q4_K_M)))) == 2


def test_an_adapter_that_is_not_finite_is_named(
    tiny: Callable[[str], Path], tiny_lora: Callable[[str], Path], tree: LlamaCppTree, tmp_path: Path
) -> None:
    lora = tmp_path / "lora"
    shutil.copytree(tiny_lora("qwen3"), lora)
    base = read_checkpoint(tiny("qwen3"))
    pair = pairs(read_adapter(lora, base))[0]
    with pair.b.file.open("r+b") as file:
        file.seek(pair.b.offset)
        file.write(struct.pack("<f", math.nan))
    with pytest.raises(InputInvalid, match=r"adapter_model\.safetensors.*lora_B"):
        quantize(job(base, tree, tmp_path / "out", lora))


def test_a_shard_cut_short_after_it_was_read_is_an_error_not_a_crash(
    tiny: Callable[[str], Path], tree: LlamaCppTree, tmp_path: Path
) -> None:
    shutil.copytree(tiny("qwen3"), tmp_path / "base")
    base = read_checkpoint(tmp_path / "base")
    file = base.tensors[0].file
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size // 2)
    with pytest.raises(InputInvalid, match="ends inside tensor"):
        quantize(job(base, tree, tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []


def test_an_architecture_llama_cpp_does_not_know(
    tiny: Callable[[str], Path], tree: LlamaCppTree, tmp_path: Path
) -> None:
    shutil.copytree(tiny("qwen3"), tmp_path / "base")
    config = json.loads((tmp_path / "base/config.json").read_text())
    config["architectures"] = ["NobodyKnowsForCausalLM"]
    (tmp_path / "base/config.json").write_text(json.dumps(config))
    base = read_checkpoint(tmp_path / "base")
    assert not supported_architecture(base, tree)
    with pytest.raises(Unsupported, match="NobodyKnowsForCausalLM"):
        quantize(job(base, tree, tmp_path / "out"))


def test_what_is_not_understood_has_the_same_bytes_and_is_said_where_it_is_large(
    tiny: Callable[[str], Path], tree: LlamaCppTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from packager.weights import lazy_graph, memory

    base, events = read_checkpoint(tiny("llama3.1")), list[Event]()
    expected = [gguf.sha256 for gguf in quantize(job(base, tree, tmp_path / "a"), emit=events.append)]
    assert not any(isinstance(event, Noted) for event in events)
    monkeypatch.setattr(lazy_graph, "_VIEWS", set())
    monkeypatch.setattr(memory, "CACHE_BYTES", 64 * 64 * 4 - 1)
    assert [gguf.sha256 for gguf in quantize(job(base, tree, tmp_path / "b"), emit=events.append)] == expected
    (note,) = [event for event in events if isinstance(event, Noted)]
    assert note.warning
    assert "blk.0.attn_q.weight can only be computed whole" in note.text


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_said_as_such(tiny: Callable[[str], Path], tree: LlamaCppTree, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "model-Q8_0.gguf.partial").symlink_to("/dev/full")
    with pytest.raises(NoSpace, match="disk is full"):
        quantize(job(read_checkpoint(tiny("qwen3")), tree, output))
    assert list(output.iterdir()) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_estimates_are_within_five_percent(
    family: str, tiny: Callable[[str], Path], tree: LlamaCppTree, tmp_path: Path
) -> None:
    base = read_checkpoint(tiny(family))
    expected = dict(estimate(base, None, ALL))
    for gguf in quantize(job(base, tree, tmp_path, template=TEMPLATE)):
        assert expected[gguf.quant] == pytest.approx(gguf.size_bytes, rel=0.05)


def test_the_estimate_for_smollm2_and_the_memory(smollm2: Path, tree: LlamaCppTree, tmp_path: Path) -> None:
    base = read_checkpoint(smollm2)
    sizes = dict(estimate(base, None, ALL))
    # what llama.cpp's own tools make of it (llama-cpp-python 0.3.36)
    assert sizes[Quant.F16] == pytest.approx(270_885_728, rel=0.05)
    assert sizes[Quant.Q8_0] == pytest.approx(144_810_848, rel=0.05)
    assert sizes[Quant.Q4_K_M] == pytest.approx(105_453_920, rel=0.05)
    assert 700e6 < peak_memory_bytes(base, sum(sizes.values())) < 1.2e9


def test_supported_architectures_are_read_without_running_the_tree(
    tiny: Callable[[str], Path], tree: LlamaCppTree, tmp_path: Path
) -> None:
    base = read_checkpoint(tiny("qwen2.5"))
    assert supported_architecture(base, tree)
    (tmp_path / "conversion").mkdir()
    table = tmp_path / "conversion/__init__.py"
    table.write_text(
        'raise SystemExit("this was run")\nTEXT_MODEL_MAP: dict[str, str] = {"Qwen2ForCausalLM": "qwen"}\n'
    )
    assert supported_architecture(base, LlamaCppTree(path=tmp_path, version="x"))
    table.write_text("x = 1\n")
    with pytest.raises(InputInvalid, match="TEXT_MODEL_MAP"):
        supported_architecture(base, LlamaCppTree(path=tmp_path, version="x"))
    table.write_text("def (\n")
    with pytest.raises(InputInvalid, match="cannot be read"):
        supported_architecture(base, LlamaCppTree(path=tmp_path, version="x"))


def test_merged_weights_are_pefts(smollm2: Path, smollm2_lora: Path, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    base = read_checkpoint(smollm2)
    adapter = read_adapter(smollm2_lora, base)
    files = merge(MergeJob(base=base, adapter=adapter, dtype=Dtype.FLOAT32, output=tmp_path, chat_template=None))
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(model, smollm2_lora).merge_and_unload().state_dict()
    ours = load_file(files[0])
    assert ours.keys() <= theirs.keys()
    for name, tensor in ours.items():
        assert (tensor - theirs[name]).abs().max() <= 1e-6 * theirs[name].abs().max(), name


def test_a_merged_checkpoint_loads_in_transformers_with_its_template(
    tiny: Callable[[str], Path], tiny_lora: Callable[[str], Path], tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = read_checkpoint(tiny("qwen2.5"))
    adapter = read_adapter(tiny_lora("qwen2.5"), base)
    made = MergeJob(base=base, adapter=adapter, dtype=Dtype.BFLOAT16, output=tmp_path, chat_template=TEMPLATE.text)
    files = merge(made)
    assert sorted(path.name for path in files) == sorted(path.name for path in tmp_path.iterdir())
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.dtype is torch.bfloat16
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == TEMPLATE.text
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["chat_template"] == TEMPLATE.text
    again = read_checkpoint(tmp_path)
    assert [(t.name, t.shape) for t in again.tensors] == [(t.name, t.shape) for t in base.tensors]
