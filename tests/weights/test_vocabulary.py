"""A tokenizer without its weights, against a whole conversion by llama.cpp's converter with the real torch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from packager.artifacts import Quant
from packager.errors import InputInvalid, ToolMissing, Unsupported
from packager.formats.gguf import MetadataEntry, ValueType, header_bytes, read_gguf
from packager.sources.llama_cpp_tree import LlamaCppTree
from packager.weights import vocabulary
from packager.weights.vocabulary import VocabularyReader, vocabulary_of_folder, vocabulary_of_gguf
from packager.worker_process import WorkerProcess
from tests.made_ggufs import make_ggufs

FROM_TEMPLATE = {"tokenizer.chat_template", "tokenizer.ggml.add_bos_token"}  # a build writes its own


def without_template(entries: tuple[MetadataEntry, ...]) -> dict[str, MetadataEntry]:
    return {entry.key: entry for entry in entries if entry.key not in FROM_TEMPLATE}


@pytest.mark.parametrize("family", ["qwen2.5", "qwen3", "llama3.1"])
def test_it_is_what_a_conversion_writes(
    family: str, tiny: Callable[[str], Path], tree: LlamaCppTree, tmp_path: Path
) -> None:
    made = make_ggufs(tiny(family), None, (Quant.F16,), tmp_path)
    with VocabularyReader(tiny(family), tree) as reader:
        found = reader.read()
        more = {entry.key: entry for entry in reader.read_with_parameters()}
    architecture = read_gguf(made.ggufs[0].path).value("general.architecture")
    written = {e.key: e for e in read_gguf(made.ggufs[0].path).metadata if e.key.startswith(f"{architecture}.")}
    assert {key: entry for key, entry in more.items() if key.startswith(f"{architecture}.")} == written
    assert tuple(entry for entry in more.values() if entry.key.startswith("tokenizer.")) == found
    assert without_template(found) == without_template(vocabulary_of_gguf(made.ggufs[0].path))
    (template,) = [entry.value for entry in found if entry.key == "tokenizer.chat_template"]
    assert template == json.loads((tiny(family) / "tokenizer_config.json").read_text())["chat_template"]


def test_what_needs_torch_is_read_with_torch(
    tiny: Callable[[str], Path], tree: LlamaCppTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    real = vocabulary._answer

    def fails_without_torch(worker: WorkerProcess, question: dict[str, str]) -> dict[str, str]:
        asked.append("--torch" in worker._command)
        return real(worker, question) if asked[-1] else {"failed": "needs a tensor"}

    monkeypatch.setattr(vocabulary, "_answer", fails_without_torch)
    found = vocabulary_of_folder(tiny("qwen2.5"), tree)
    monkeypatch.undo()
    assert asked == [False, True]
    assert found == vocabulary_of_folder(tiny("qwen2.5"), tree)


def test_tokens_behind_a_text_do_not_hide_how_it_is_split(tokenizers: Path, tree: LlamaCppTree, tmp_path: Path) -> None:
    """transformers 5 leaves Command R's two tokens behind every text, the converter's fingerprint was taken without."""
    folder = tmp_path / "base"
    shutil.copytree(tokenizers / "@lenml" / "tokenizer-command_r_plus" / "models", folder)
    config = {"architectures": ["CohereForCausalLM"], "model_type": "cohere", "vocab_size": 256000, "head_dim": 16}
    (folder / "config.json").write_text(json.dumps(config))
    found = {entry.key: entry.value for entry in vocabulary_of_folder(folder, tree)}
    assert found["tokenizer.ggml.pre"] == "command-r"
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["add_bos_token"], settings["add_eos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(Unsupported, match="pre-tokenizer was not recognized"):
        vocabulary_of_folder(folder, tree)


def test_a_converter_that_ends_its_process_is_an_error(
    tiny: Callable[[str], Path], tree: LlamaCppTree, tmp_path: Path
) -> None:
    shutil.copytree(tiny("qwen2.5"), tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    (tmp_path / "base" / "config.json").write_text(json.dumps({**config, "architectures": ["InternLM2ForCausalLM"]}))
    with pytest.raises(InputInvalid, match=r"tokenizer\.model is missing, which it wants for InternLM2ForCausalLM"):
        vocabulary_of_folder(tmp_path / "base", tree)


def test_an_architecture_the_converter_does_not_know(
    tiny: Callable[[str], Path], tree: LlamaCppTree, tmp_path: Path
) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny("qwen2.5"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["PackyForCausalLM"]}))
    with pytest.raises(Unsupported, match="PackyForCausalLM"):
        vocabulary_of_folder(folder, tree)


def test_a_package_that_the_converter_wants_and_that_is_not_there(
    tiny: Callable[[str], Path], tree: LlamaCppTree, tmp_path: Path
) -> None:
    broken = tmp_path / "llama.cpp"
    shutil.copytree(tree.path, broken)
    base = broken / "conversion" / "base.py"
    base.write_text(
        "import packy_is_not_installed\n" + base.read_text().replace("from __future__ import annotations\n", "")
    )
    with pytest.raises(ToolMissing, match="packy_is_not_installed"):
        vocabulary_of_folder(tiny("qwen2.5"), LlamaCppTree(path=broken, version="broken"))


def test_a_damaged_tokenizer(tiny: Callable[[str], Path], tree: LlamaCppTree, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny("qwen2.5"), folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(InputInvalid) as caught:
        vocabulary_of_folder(folder, tree)
    assert str(folder) in caught.value.message
    assert caught.value.hint


def test_a_gguf_without_a_tokenizer(tmp_path: Path) -> None:
    path = tmp_path / "projector.gguf"
    entry = MetadataEntry(key="general.architecture", type=ValueType.STRING, value="clip")
    path.write_bytes(header_bytes((entry,), ()))
    assert read_gguf(path).metadata == (entry,)
    with pytest.raises(InputInvalid, match=r"projector\.gguf: there is no tokenizer in it"):
        vocabulary_of_gguf(path)
