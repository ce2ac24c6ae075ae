"""Probes in the real llama.cpp, against transformers' tokenizer of the same family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from packager.artifacts import Conversation, Message
from packager.engines.engine import NotSupported
from packager.engines.llama_cpp import Embedded
from packager.errors import InputInvalid
from packager.formats.gguf import MetadataEntry, ValueType, read_gguf
from packager.sources.llama_cpp_tree import LlamaCppTree
from packager.weights.probe_gguf import write_probe
from packager.weights.vocabulary import vocabulary_of_folder

TEMPLATE = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
HELLO = Conversation(id="hello", group="CORE", messages=(Message(role="user", content="Hello, wörld! 你好"),))


@pytest.fixture(scope="module", params=["qwen2.5", "llama3.1"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def vocabulary(family: str, tiny: Callable[[str], Path], tree: LlamaCppTree) -> tuple[MetadataEntry, ...]:
    return vocabulary_of_folder(tiny(family), tree)


@pytest.mark.parametrize("weights", [True, False], ids=["with weights", "vocabulary only"])
def test_it_tokenizes_and_renders_as_the_model_would(
    family: str, weights: bool, vocabulary: tuple[MetadataEntry, ...], tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    probe = write_probe(tmp_path / "probe.gguf", vocabulary, template=TEMPLATE, weights=weights)
    assert probe.size_bytes == probe.path.stat().st_size < 20_000_000
    tokenizer = AutoTokenizer.from_pretrained(tiny(family))
    with Embedded(probe.path, vocabulary_only=not weights, context_tokens=256) as engine:
        text = engine.render(HELLO)
        assert text == "[user] Hello, wörld! 你好\n"
        assert engine.tokens(HELLO) == tuple(tokenizer.encode(text, add_special_tokens=False))
        if weights:
            assert isinstance(engine.generate(HELLO, max_tokens=2), str)


@pytest.mark.parametrize("adds_bos", [True, False])
def test_whether_bos_is_added(adds_bos: bool, vocabulary: tuple[MetadataEntry, ...], tmp_path: Path) -> None:
    probe = write_probe(tmp_path / "probe.gguf", vocabulary, template=TEMPLATE, adds_bos=adds_bos, weights=False)
    bos = read_gguf(probe.path).value("tokenizer.ggml.bos_token_id")
    with Embedded(probe.path, vocabulary_only=True) as engine:
        assert (engine.tokenize("Hi", add_special=True)[0] == bos) is adds_bos


@pytest.mark.parametrize("adds_bos", [None, False], ids=["as the vocabulary says", "as a build writes it"])
def test_what_a_vocabulary_adds_behind_a_text_is_switched_off_as_in_a_build(
    adds_bos: bool | None, vocabulary: tuple[MetadataEntry, ...], tmp_path: Path
) -> None:
    key = "tokenizer.ggml.add_eos_token"
    ending = (
        *(each for each in vocabulary if each.key != key),
        MetadataEntry(key=key, type=ValueType.BOOL, value=True),
    )
    probe = write_probe(tmp_path / "probe.gguf", ending, template=TEMPLATE, adds_bos=adds_bos, weights=False)
    eos = read_gguf(probe.path).value("tokenizer.ggml.eos_token_id")
    with Embedded(probe.path, vocabulary_only=True) as engine:
        assert (engine.tokenize("Hi", add_special=True)[-1] == eos) is (adds_bos is None)


def test_without_a_template_there_is_none(vocabulary: tuple[MetadataEntry, ...], tmp_path: Path) -> None:
    probe = write_probe(tmp_path / "probe.gguf", vocabulary, template=None, weights=False)
    with Embedded(probe.path, vocabulary_only=True) as engine:
        answer = engine.render(HELLO)
    assert isinstance(answer, NotSupported)
    assert answer.code == "NO_TEMPLATE"


def test_a_vocabulary_without_tokens_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputInvalid, match="no tokens"):
        write_probe(tmp_path / "probe.gguf", (), template=TEMPLATE)
    assert list(tmp_path.iterdir()) == []
