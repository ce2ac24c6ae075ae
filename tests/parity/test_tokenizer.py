"""Tokenizers compared on random texts: the classes differ where the real tokenizers of transformers and llama.cpp do."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from packager.artifacts import Outcome
from packager.engines.llama_cpp import Embedded
from packager.engines.transformers import Reference
from packager.evidence import CharacterClass
from packager.parity.tokenizer import (
    TEXTS_PER_CLASS,
    class_names,
    compare_tokenizers,
    random_texts,
    tokenizer_check,
)
from packager.sources.llama_cpp_tree import LlamaCppTree
from tests.llama_cpp_tools import convert

SPECIAL = ("<|im_start|>", "<|im_end|>")


def points(text: str) -> tuple[int, ...]:
    return tuple(map(ord, text))


def composed(text: str) -> tuple[int, ...]:
    return points(unicodedata.normalize("NFC", text))


@pytest.mark.parametrize("name", class_names())
def test_random_texts_are_many_different_ones_and_always_the_same(name: str) -> None:
    texts = random_texts(name, TEXTS_PER_CLASS, SPECIAL)
    assert texts == random_texts(name, TEXTS_PER_CLASS, SPECIAL)
    assert len(set(texts)) > TEXTS_PER_CLASS // 3
    assert all(texts)


def test_every_class_is_compared_and_the_users_own_texts_last() -> None:
    found = compare_tokenizers(points, points, special=SPECIAL, data=("mine",))
    assert [c.name for c in found] == [*class_names(), "your data"]
    assert {c.differing for c in found} == {0}
    assert (found[-1].texts, found[0].texts) == (1, TEXTS_PER_CLASS)
    assert tokenizer_check(found, subject="f16", engine="llama.cpp").detail == "3001 of 3001 texts equal"


def test_without_special_tokens_and_data_there_are_no_such_classes() -> None:
    names = [c.name for c in compare_tokenizers(points, points)]
    assert names == [name for name in class_names() if name != "special tokens"]


def test_an_engine_that_does_not_compose_is_told_and_does_not_fail() -> None:
    found = compare_tokenizers(composed, points, data=("cafe\u0301", "cafe"))
    differing = {c.name: c for c in found if c.differing}
    assert {"decomposed accents", "your data"} <= set(differing)
    assert {c.code for c in differing.values()} == {"NFC"}
    assert differing["your data"] == CharacterClass(
        name="your data",
        texts=2,
        differing=1,
        code="NFC",
        example="'cafe\\u0301'",
        meaning=differing["decomposed accents"].meaning,
    )
    check = tokenizer_check(found, subject="f16", engine="llama.cpp")
    assert check.outcome is Outcome.PASSED
    assert "decomposed accents: " in check.detail
    assert "(NFC)" in check.detail


def test_one_unexplained_text_fails_its_class() -> None:
    found = compare_tokenizers(points, lambda text: points(text.replace("z", "y")))
    by_name = {c.name: c for c in found}
    assert by_name["letters"].differing > 0
    assert by_name["digits"].differing == 0
    assert by_name["letters"].code == ""
    check = tokenizer_check(found, subject="f16", engine="llama.cpp")
    assert check.outcome is Outcome.FAILED
    assert "letters: " in check.detail
    assert "digits" not in check.detail


def test_a_fault_beside_composition_is_not_explained_by_it() -> None:
    found = compare_tokenizers(composed, lambda text: points(text.replace("e", "f")))
    accents = next(c for c in found if c.name == "decomposed accents")
    assert (accents.code, bool(accents.differing)) == ("", True)


@pytest.mark.parametrize(("family", "classes"), [("qwen2.5", {"decomposed accents", "mixed"}), ("llama3.1", set())])
def test_real_tokenizers_differ_where_they_are_known_to(
    family: str, classes: set[str], tiny: Callable[[str], Path], tree: LlamaCppTree, tmp_path: Path
) -> None:
    """Qwen's tokenizer composes (NFC) and llama.cpp does not; Llama 3.1's are equal."""
    gguf = convert(tree, tiny(family), "f16", tmp_path / "model.gguf")
    reference = Reference(tiny(family), None, "")
    with Embedded(gguf, vocabulary_only=True) as engine:
        found = compare_tokenizers(
            reference.encode,
            lambda text: engine.tokenize(text, add_special=False),
            special=reference.special_tokens,
        )
    differing = {c.name for c in found if c.differing}
    assert differing == classes
    assert {c.code for c in found if c.differing} <= {"NFC"}
