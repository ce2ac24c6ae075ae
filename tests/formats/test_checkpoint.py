from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import load_file, save_file

from packager.artifacts import Dtype, Sampling
from packager.codec import decode, encode
from packager.errors import InputInvalid, PackagerError, UnsafeInput, Unsupported
from packager.formats.checkpoint import folder_name, read_checkpoint
from tests.formats.tiny_folders import (
    HIDDEN,
    TENSORS,
    VOCAB,
    edit_json,
    values,
    write_adapter,
    write_base,
    write_sharded,
)


def test_a_base_is_read_whole(tmp_path: Path) -> None:
    folder = write_base(tmp_path / "Packy")
    (folder / "LICENSE").write_text("do what you want")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\nbase_model: someone/else\n---\n# Packy\n")
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 5], "temperature": 0.7, "top_k": 20}')
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    base = read_checkpoint(folder)
    assert base.name == "Packy"
    assert (base.architecture, base.dtype) == ("LlamaForCausalLM", Dtype.FLOAT32)
    assert (base.hidden_size, base.layers, base.vocab_size, base.context_tokens) == (HIDDEN, 1, VOCAB, 128)
    assert base.ties_embeddings is False
    assert base.eos_token_ids == (2, 5)
    assert base.sampling == Sampling(temperature=0.7, top_k=20)
    assert base.chat_template == "{{ messages }}"
    assert (base.license_id, base.license_file) == ("apache-2.0", folder / "LICENSE")
    assert {entry.name: entry.shape for entry in base.tensors} == TENSORS
    assert [entry.name for entry in base.tensors] == sorted(TENSORS)
    assert decode(type(base), encode(base)) == base


def test_a_bare_base_has_nothing_optional(tmp_path: Path) -> None:
    base = read_checkpoint(write_base(tmp_path / "b", eos_token_id=None, max_position_embeddings=None))
    assert (base.eos_token_ids, base.context_tokens, base.sampling) == ((), None, Sampling())
    assert (base.chat_template, base.license_id, base.license_file) == (None, None, None)


def test_shards_give_the_same_tensors_as_one_file(tmp_path: Path) -> None:
    one, many = read_checkpoint(write_base(tmp_path / "one")), read_checkpoint(write_sharded(tmp_path / "many"))
    for left, right in zip(one.tensors, many.tensors, strict=True):
        assert (left.name, left.dtype, left.shape) == (right.name, right.dtype, right.shape)
        data = right.file.read_bytes()[right.offset : right.offset + right.size_bytes]
        assert data == left.file.read_bytes()[left.offset : left.offset + left.size_bytes]


@pytest.mark.parametrize(
    ("values_", "expected"),
    [
        ({"tie_word_embeddings": True}, True),
        ({"tie_word_embeddings": None}, False),
        ({"tie_word_embeddings": None, "text_config": {"tie_word_embeddings": True}}, True),
    ],
    ids=["declared", "absent-with-lm-head", "nested"],
)
def test_tied_embeddings(values_: dict[str, object], expected: bool, tmp_path: Path) -> None:
    nested = values_.get("text_config")
    if isinstance(nested, dict):
        nested.update(hidden_size=HIDDEN, num_hidden_layers=1, vocab_size=VOCAB)
    assert read_checkpoint(write_base(tmp_path / "b", **values_)).ties_embeddings is expected


def test_without_a_word_an_output_layer_that_is_missing_is_shared(tmp_path: Path) -> None:
    tensors = {name: values(*shape) for name, shape in TENSORS.items() if name != "lm_head.weight"}
    assert (
        read_checkpoint(write_base(tmp_path / "b", tensors=tensors, tie_word_embeddings=None)).ties_embeddings is True
    )


def test_sizes_of_older_architectures(tmp_path: Path) -> None:
    config = {"n_embd": HIDDEN, "n_layer": 3, "n_positions": 64}
    folder = write_base(
        tmp_path / "b", hidden_size=None, num_hidden_layers=None, max_position_embeddings=None, **config
    )
    base = read_checkpoint(folder)
    assert (base.hidden_size, base.layers, base.context_tokens) == (HIDDEN, 3, 64)


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlicense: mit\n---\n", "mit"),
        ("---\ntags:\n- a\nlicense: 'llama3.1'\n---\ntext", "llama3.1"),
        ("---\nlicense:\n- apache-2.0\n---\n", "apache-2.0"),
        ("---\nlicense: [gemma, mit]\n---\n", "gemma"),
        ("---\r\nlicense: mit # really\r\n---\r\n", "mit"),
        ("license: mit\n", None),
        ("---\nlicense_name: qwen\n---\n", None),
        ("---\nlicense: mit\n", None),
    ],
    ids=["plain", "quoted", "list", "flow-list", "windows", "no-header", "other-key", "unclosed"],
)
def test_licence_of_the_card(card: str, expected: str | None, tmp_path: Path) -> None:
    folder = write_base(tmp_path / "b")
    (folder / "README.md").write_bytes(card.encode())
    assert read_checkpoint(folder).license_id == expected


def test_a_hub_cache_of_links_is_read_and_named_after_its_model(tmp_path: Path) -> None:
    blobs = write_base(tmp_path / "models--Some--Packy-1B" / "blobs")
    snapshot = tmp_path / "models--Some--Packy-1B" / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(path)
    assert read_checkpoint(snapshot).name == folder_name(snapshot) == "Packy-1B"


def test_a_folder_of_modelscopes_cache_is_named_after_its_model(tmp_path: Path) -> None:
    assert folder_name(tmp_path / "models" / "Some--Packy-1.5B" / "snapshots" / "master") == "Packy-1.5B"


def test_a_buffer_of_integers_is_no_weight(tmp_path: Path) -> None:
    tensors = {name: values(*shape) for name, shape in TENSORS.items()}
    tensors["model.position_ids"] = numpy.arange(4)
    assert read_checkpoint(write_base(tmp_path / "b", tensors=tensors)).dtype is Dtype.FLOAT32


# --- what is refused ---------------------------------------------------------------------------------------------------


def _remove(folder: Path) -> None:
    shutil.rmtree(folder)


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _truncated(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-1])


def _pickle(suffix: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / f"pytorch_model{suffix}")

    return spoil


def _gguf_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "packy.gguf")


def _adapter(folder: Path) -> None:
    shutil.rmtree(folder)
    write_adapter(folder)


def _both(folder: Path) -> None:
    write_adapter(folder)


def _shard_without_index(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")


def _config(**changes: object) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "config.json", **changes)


def _file(name: str, text: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).write_text(text)

    return spoil


def _dangling(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(folder / "gone")


def _integers(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.down_proj.weight"] = numpy.zeros((HIDDEN, 12), dtype=numpy.int8)
    save_file(tensors, folder / "model.safetensors")


def _float64(folder: Path) -> None:
    save_file({"model.norm.weight": numpy.zeros(2)}, folder / "model.safetensors")


def _float8(folder: Path) -> None:
    header = json.dumps({"model.norm.weight": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(2))


def _nothing(folder: Path) -> None:
    save_file({}, folder / "model.safetensors")


BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True}
REFUSED: dict[str, tuple[Callable[[Path], None], type[PackagerError], str, str]] = {
    "missing-folder": (_remove, InputInvalid, "no such folder", "path"),
    "empty-folder": (_empty, InputInvalid, "an empty folder", "Download"),
    "no-weights": (_no_weights, InputInvalid, "no weights", "weights"),
    "no-config": (_no_config, InputInvalid, "no config.json", "save_pretrained"),
    "no-tensor": (_nothing, InputInvalid, "hold no tensor", "again"),
    "truncated": (_truncated, InputInvalid, "the header promises", "again"),
    "pickle-bin": (_pickle(".bin"), UnsafeInput, "pytorch_model.bin is a pickle", "safe_serialization"),
    "pickle-pth": (_pickle(".pth"), UnsafeInput, "pytorch_model.pth is a pickle", "safe_serialization"),
    "gguf-only": (_gguf_only, InputInvalid, "only a GGUF", "converted from"),
    "adapter-as-base": (_adapter, InputInvalid, "an adapter", "packager build someone/base"),
    "base-and-adapter": (_both, InputInvalid, "at once", "Move"),
    "shard-without-index": (_shard_without_index, InputInvalid, "model-00001-of-00002.safetensors but no", "index"),
    "two-layouts": (_file("model.safetensors.index.json", "{}"), InputInvalid, "holds both", "Remove"),
    "dangling-link": (_dangling, InputInvalid, "no such file", ""),
    "auto-map": (_config(auto_map={"AutoModel": "x.Y"}), UnsafeInput, "auto_map", "built-in"),
    "auto-map-in-tokenizer": (
        _file("tokenizer_config.json", '{"auto_map": {"AutoTokenizer": ["x.Y", null]}}'),
        UnsafeInput,
        "tokenizer_config.json: auto_map",
        "built-in",
    ),
    "code-in-generation": (
        _file("generation_config.json", '{"custom_generate": "x"}'),
        UnsafeInput,
        "generation_config.json: custom_generate",
        "",
    ),
    "bitsandbytes": (_config(quantization_config=BNB), Unsupported, "bitsandbytes", "16-bit base"),
    "int8-weight": (_integers, Unsupported, "down_proj.weight is stored as I8", "16-bit"),
    "float64": (_float64, Unsupported, "stored as F64", "16-bit"),
    "float8": (_float8, Unsupported, "stored as F8_E4M3", "16-bit"),
    "no-architecture": (_config(architectures=[]), InputInvalid, "names no architecture", "architectures"),
    "vocabulary-of-another": (
        _config(vocab_size=17),
        InputInvalid,
        "vocab_size 17, model.embed_tokens.weight has 16",
        "",
    ),
    "vocabulary-text": (_config(vocab_size="16"), InputInvalid, "vocab_size is '16'", ""),
    "no-layers": (_config(num_hidden_layers=None), InputInvalid, "no num_hidden_layers", "again"),
    "zero-layers": (_config(num_hidden_layers=0), InputInvalid, "num_hidden_layers is 0", ""),
    "eos-text": (_config(eos_token_id="</s>"), InputInvalid, "eos_token_id is '</s>'", ""),
    "config-list": (_file("config.json", "[]"), InputInvalid, "expected an object", ""),
    "generation-cut": (_file("generation_config.json", "{"), InputInvalid, "generation_config.json: not JSON", ""),
}


@pytest.mark.parametrize("case", REFUSED)
def test_is_refused_in_one_line_with_the_next_step(case: str, tmp_path: Path) -> None:
    spoil, kind, words, hint = REFUSED[case]
    folder = write_base(tmp_path / "base")
    spoil(folder)
    with pytest.raises(kind) as caught:
        read_checkpoint(folder)
    assert caught.value.exit_code == kind.exit_code
    assert words in caught.value.message
    assert str(folder) in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint
    assert hint in caught.value.hint


def test_a_quantized_base_names_its_16_bit_base(tmp_path: Path) -> None:
    folder = write_base(tmp_path / "b", quantization_config=BNB, _name_or_path="unsloth/Qwen3-8B-unsloth-bnb-4bit")
    with pytest.raises(Unsupported) as caught:
        read_checkpoint(folder)
    assert (
        caught.value.hint
        == "Pass its 16-bit base unsloth/Qwen3-8B, or add --dequantize-base (build, plan, merge, quantize, verify)."
    )
    with pytest.raises(Unsupported) as caught:
        read_checkpoint(write_base(tmp_path / "Qwen3-4B-bnb-4bit", quantization_config=BNB))
    assert (
        caught.value.hint
        == "Pass its 16-bit base Qwen3-4B, or add --dequantize-base (build, plan, merge, quantize, verify)."
    )
    (folder / "README.md").write_text("---\nbase_model: Qwen/Qwen3-8B\n---\n")
    with pytest.raises(Unsupported) as caught:
        read_checkpoint(folder)
    assert (
        caught.value.hint
        == "Pass its 16-bit base Qwen/Qwen3-8B, or add --dequantize-base (build, plan, merge, quantize, verify)."
    )


@pytest.mark.parametrize("name", ["packy.gguf", "weights.safetensors"])
def test_a_file_is_no_base(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(InputInvalid, match="expected a"):
        read_checkpoint(tmp_path / name)


# --- indexes -----------------------------------------------------------------------------------------------------------

INDEX, SHARD = "model.safetensors.index.json", "model-00002-of-00002.safetensors"


def _map(folder: Path, **changes: object) -> None:
    content = json.loads((folder / INDEX).read_text())
    content["weight_map"].update(changes)
    content["weight_map"] = {name: shard for name, shard in content["weight_map"].items() if shard is not None}
    (folder / INDEX).write_text(json.dumps(content))


INDEXES: dict[str, tuple[Callable[[Path], object], type[PackagerError], str]] = {
    "missing-shard": (lambda folder: (folder / SHARD).unlink(), InputInvalid, f"{SHARD}: no such file"),
    "truncated-shard": (
        lambda folder: (folder / SHARD).write_bytes((folder / SHARD).read_bytes()[:-3]),
        InputInvalid,
        f"{SHARD}: the header promises",
    ),
    "tensor-not-in-shard": (
        lambda folder: _map(folder, **{"model.extra.weight": SHARD}),
        InputInvalid,
        "does not hold model.extra.weight",
    ),
    "tensor-not-in-index": (
        lambda folder: _map(folder, **{"model.norm.weight": None}),
        InputInvalid,
        "holds model.norm.weight",
    ),
    "tensor-in-two-shards": (
        lambda folder: save_file({"model.norm.weight": values(HIDDEN), "lm_head.weight": values(4)}, folder / SHARD),
        InputInvalid,
        "which model.safetensors.index.json",
    ),
    "parent": (
        lambda folder: _map(folder, **{"lm_head.weight": "../model.safetensors"}),
        UnsafeInput,
        "'../model.safetensors'",
    ),
    "absolute": (lambda folder: _map(folder, **{"lm_head.weight": "/x.safetensors"}), UnsafeInput, "'/x.safetensors'"),
    "subfolder": (lambda folder: _map(folder, **{"lm_head.weight": "a/b.safetensors"}), UnsafeInput, "a/b"),
    "backslash": (lambda folder: _map(folder, **{"lm_head.weight": "a\\b.safetensors"}), UnsafeInput, "a\\\\b"),
    "pickle": (
        lambda folder: _map(folder, **{"lm_head.weight": "pytorch_model.bin"}),
        UnsafeInput,
        "pytorch_model.bin",
    ),
    "option": (lambda folder: _map(folder, **{"lm_head.weight": "-x.safetensors"}), UnsafeInput, "-x"),
    "number": (lambda folder: _map(folder, **{"lm_head.weight": 3}), InputInvalid, "weight_map.lm_head.weight is 3"),
    "empty-map": (lambda folder: (folder / INDEX).write_text('{"weight_map": {}}'), InputInvalid, "has no weight_map"),
    "no-map": (lambda folder: (folder / INDEX).write_text("{}"), InputInvalid, "has no weight_map"),
    "cut": (lambda folder: (folder / INDEX).write_text('{"weight_map": {"a"'), InputInvalid, "not JSON"),
    "name-twice": (
        lambda folder: (folder / INDEX).write_text('{"weight_map": {"a": "b.safetensors", "a": "c.safetensors"}}'),
        InputInvalid,
        "'a' appears twice",
    ),
}


@pytest.mark.parametrize("case", INDEXES)
def test_an_index_has_to_agree_with_its_shards(case: str, tmp_path: Path) -> None:
    spoil, kind, words = INDEXES[case]
    folder = write_sharded(tmp_path / "base")
    spoil(folder)
    with pytest.raises(kind) as caught:
        read_checkpoint(folder)
    assert words in caught.value.message
    assert str(folder) in caught.value.message
    assert caught.value.hint


# --- the real thing ----------------------------------------------------------------------------------------------------


def test_the_real_base_agrees_with_transformers(smollm2: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer

    base = read_checkpoint(smollm2)
    config = AutoConfig.from_pretrained(smollm2)
    assert (base.hidden_size, base.layers) == (config.hidden_size, config.num_hidden_layers)
    assert (base.vocab_size, base.context_tokens) == (config.vocab_size, config.max_position_embeddings)
    assert base.ties_embeddings is config.tie_word_embeddings is True
    assert (base.dtype, base.architecture) == (Dtype.BFLOAT16, config.architectures[0])
    assert base.eos_token_ids == (config.eos_token_id,)
    assert base.chat_template == AutoTokenizer.from_pretrained(smollm2).chat_template


def test_reading_imports_nothing_heavy(smollm2: Path) -> None:
    import subprocess
    import sys

    program = (
        "import sys; from pathlib import Path; from packager.formats.checkpoint import read_checkpoint; "
        "from packager.formats.adapter import read_adapter; read_checkpoint(Path(sys.argv[1])); "
        "print(sorted({'torch', 'transformers', 'numpy', 'safetensors', 'tokenizers', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program, smollm2], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
