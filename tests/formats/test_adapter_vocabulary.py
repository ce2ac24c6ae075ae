from __future__ import annotations

import json
from pathlib import Path

import pytest

from packager.errors import InputInvalid
from packager.formats.adapter import read_adapter, read_adapters
from packager.formats.checkpoint import read_checkpoint
from packager.formats.fine_tuned import changed_config, fine_tuned, tokenizer_folder
from tests.formats.tiny_folders import HIDDEN, VOCAB, lora, values, write_adapter, write_base

EMBED, HEAD = "base_model.model.model.embed_tokens.weight", "base_model.model.lm_head.weight"


def write_tokenizer(folder: Path, tokens: int) -> None:
    vocabulary = {f"t{number}": number for number in range(tokens)}
    text = {"model": {"type": "BPE", "vocab": vocabulary, "merges": []}, "added_tokens": []}
    (folder / "tokenizer.json").write_text(json.dumps(text))


def resized(folder: Path, rows: int) -> Path:
    return write_adapter(folder, tensors={**lora(), EMBED: values(rows, HIDDEN), HEAD: values(rows, HIDDEN)})


def test_the_adapters_tokenizer_counts_where_it_has_more_tokens(tmp_path: Path) -> None:
    base = read_checkpoint(write_base(tmp_path / "base"))
    write_tokenizer(base.folder, VOCAB - 4)
    same, more = resized(tmp_path / "same", VOCAB + 8), resized(tmp_path / "more", VOCAB + 8)
    write_tokenizer(same, VOCAB - 4)
    write_tokenizer(more, VOCAB + 5)
    assert tokenizer_folder(base, read_adapter(same, base)) == base.folder
    assert tokenizer_folder(base, read_adapter(more, base)) == more
    assert tokenizer_folder(base, read_adapters((more, same), base)) == more
    assert tokenizer_folder(base, None) == base.folder


def test_added_tokens_may_take_rows_that_the_embedding_had_to_spare(tmp_path: Path) -> None:
    base = read_checkpoint(write_base(tmp_path / "base"))
    write_tokenizer(base.folder, VOCAB - 4)
    folder = write_adapter(tmp_path / "lora")
    write_tokenizer(folder, VOCAB)
    adapter = read_adapter(folder, base)
    assert (adapter.vocab_size, adapter.tokenizer_folder) == (None, folder)


@pytest.mark.parametrize("whose", ["adapter", "base"])
def test_more_tokens_than_rows_are_refused_with_both_numbers(whose: str, tmp_path: Path) -> None:
    base = read_checkpoint(write_base(tmp_path / "base"))
    write_tokenizer(base.folder, VOCAB)
    folder = resized(tmp_path / "lora", VOCAB + 2 if whose == "adapter" else VOCAB - 2)
    if whose == "adapter":
        write_tokenizer(folder, VOCAB + 3)
    tokens, rows = (VOCAB + 3, VOCAB + 2) if whose == "adapter" else (VOCAB, VOCAB - 2)
    with pytest.raises(InputInvalid, match=f"has {tokens} tokens, the embedding with .* has {rows} rows"):
        read_adapter(folder, base)


def test_the_configuration_says_the_new_vocabulary_and_no_tie(tmp_path: Path) -> None:
    base = read_checkpoint(write_base(tmp_path / "base", tie_word_embeddings=True))
    tensors = {**lora(), EMBED: values(VOCAB + 8, HIDDEN), HEAD: values(VOCAB + 8, HIDDEN) + 1}
    adapter = read_adapter(write_adapter(tmp_path / "lora", tensors=tensors, modules_to_save=["embed_tokens"]), base)
    after = fine_tuned(base, adapter)
    shapes = {entry.name: entry.shape for entry in after.tensors if len(entry.shape) == 2}
    assert shapes["model.embed_tokens.weight"] == shapes["lm_head.weight"] == (VOCAB + 8, HIDDEN)
    assert (after.vocab_size, after.ties_embeddings) == (VOCAB + 8, False)
    flat = {"vocab_size": VOCAB, "tie_word_embeddings": True, "x": 1}
    assert changed_config(flat, base, adapter) == {"vocab_size": VOCAB + 8, "tie_word_embeddings": False, "x": 1}
    nested = changed_config({"text_config": flat, "y": 2}, base, adapter)
    assert nested == {
        "text_config": {"vocab_size": VOCAB + 8, "tie_word_embeddings": False, "x": 1},
        "y": 2,
        "tie_word_embeddings": False,
    }
    assert changed_config(flat, base, None) == flat


def test_an_end_that_was_trained_as_one_with_the_other_must_be_equal(tmp_path: Path) -> None:
    base = read_checkpoint(write_base(tmp_path / "base", tie_word_embeddings=True))
    tensors = {**lora(), EMBED: values(VOCAB, HIDDEN) + 1, HEAD: values(VOCAB, HIDDEN) + 1}
    config = {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}
    kept = read_adapter(write_adapter(tmp_path / "kept", tensors=tensors, **config), base)
    assert kept.output_layer is None
    tensors[HEAD] = tensors[HEAD] + 1
    with pytest.raises(InputInvalid, match="were trained as one and differ"):
        read_adapter(write_adapter(tmp_path / "apart", tensors=tensors, **config), base)
