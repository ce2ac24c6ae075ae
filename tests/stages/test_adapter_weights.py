"""GGUF files and merged checkpoints of adapters that change more than matrices, beside llama.cpp's own converter."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from packager.artifacts import Dtype, Quant
from packager.engines.llama_cpp import Embedded
from packager.engines.transformers import Reference
from packager.errors import Unsupported
from packager.formats.adapter import read_adapter
from packager.formats.checkpoint import read_checkpoint
from packager.formats.gguf import read_gguf
from packager.parity.logits import kl_nats
from packager.sources.llama_cpp_tree import LlamaCppTree
from packager.stages.weights import MergeJob, QuantizeJob, estimate, merge, quantize
from packager.weights.checkpoint_errors import checkpoint_errors
from packager.weights.tensor_errors import tensor_errors
from tests import llama_cpp_tools as llama
from tests.peft_adapters import train

WORDS = ["<|one|>", "<|two|>"]
NAMES = {"general.name", "general.basename", "general.finetune", "general.version", "general.size_label"}


def test_an_untied_model_with_new_words_is_what_llama_cpp_makes_of_our_merge(
    tiny: Callable[[str], Path], tree: LlamaCppTree, tmp_path: Path
) -> None:
    base = read_checkpoint(tiny("qwen2.5"))
    assert base.ties_embeddings
    rows, folder = base.vocab_size + 16, tmp_path / "lora"
    train(
        base.folder,
        folder,
        vocab_size=rows,
        r=2,
        lora_alpha=4,
        target_modules=["q_proj"],
        modules_to_save=["embed_tokens"],
    )
    tokenizer = AutoTokenizer.from_pretrained(base.folder)
    tokenizer.add_tokens(WORDS, special_tokens=True)
    tokenizer.save_pretrained(folder)
    adapter = read_adapter(folder, base)
    out, merged = tmp_path / "out", tmp_path / "merged"
    for made in (out, merged):
        made.mkdir()
    job = QuantizeJob(
        base=base, adapter=adapter, quants=(Quant.F16,), template=None, name="", file_stem="m", output=out, tree=tree
    )
    [gguf] = quantize(job)
    merge(MergeJob(base=base, adapter=adapter, dtype=Dtype.FLOAT32, output=merged, chat_template=None))

    config = json.loads((merged / "config.json").read_text())
    assert (config["vocab_size"], config["tie_word_embeddings"]) == (rows, False)
    assert AutoTokenizer.from_pretrained(merged).convert_tokens_to_ids(WORDS[1]) == len(tokenizer) - 1
    weights = load_file(merged / "model.safetensors")
    saved = load_file(folder / "adapter_model.safetensors")
    assert torch.equal(weights["model.embed_tokens.weight"], saved["base_model.model.model.embed_tokens.weight"])
    assert torch.equal(weights["lm_head.weight"], saved["base_model.model.lm_head.weight"])
    assert not torch.equal(weights["lm_head.weight"], weights["model.embed_tokens.weight"])

    theirs = llama.convert(tree, merged, "f16", tmp_path / "theirs.gguf")
    assert llama.differing_tensors(gguf.path, theirs) == []
    assert llama.differing_keys(gguf.path, theirs) <= NAMES
    shapes = {tensor.name: tensor.shape for tensor in read_gguf(gguf.path).tensors}
    assert shapes["output.weight"] == shapes["token_embd.weight"] == (rows, base.hidden_size)
    for compared in (
        tensor_errors(gguf.path, base, adapter, tree),
        checkpoint_errors(read_checkpoint(merged), base, adapter),
    ):
        assert len(compared.tensors) > 20
        wrong = (compared.faults, compared.missing, compared.unexpected, compared.reshaped, compared.unread)
        assert wrong == ((), (), (), (), ())

    reference, embedded = Reference(base.folder, adapter, ""), Embedded(gguf.path, context_tokens=256)
    ids = reference.encode("Hello <|two|> world <|one|>, and some more words")
    assert max(ids) == len(tokenizer) - 1
    assert embedded.tokenize("Hello <|two|> world <|one|>, and some more words", add_special=False) == ids
    expected, found = reference.next_logprobs(ids), embedded.next_logprobs(ids)
    assert found.shape == expected.shape == (len(ids), rows)
    assert float(kl_nats(expected, found).mean()) < 1e-4
    assert estimate(base, adapter, (Quant.F16,))[0][1] == pytest.approx(gguf.size_bytes, rel=0.05)


def test_an_output_layer_that_llama_cpp_does_not_read_is_refused_before_anything_is_written(
    tree: LlamaCppTree, tmp_path: Path
) -> None:
    """Gemma's output layer is its embedding, in llama.cpp always."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = Gemma2Config(
            vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, head_dim=8, tie_word_embeddings=True,
        )  # fmt: skip
        Gemma2ForCausalLM(config).save_pretrained(tmp_path / "base")
    base = read_checkpoint(tmp_path / "base")
    folder = train(base.folder, tmp_path / "lora", r=2, lora_alpha=4, target_modules=["embed_tokens"])
    (tmp_path / "out").mkdir()
    job = QuantizeJob(
        base=base,
        adapter=read_adapter(folder, base),
        quants=(Quant.F16,),
        template=None,
        name="",
        file_stem="m",
        output=tmp_path / "out",
        tree=tree,
    )
    with pytest.raises(Unsupported, match=r"unties lm_head\.weight .* Gemma2ForCausalLM"):
        quantize(job)
    assert list((tmp_path / "out").iterdir()) == []
