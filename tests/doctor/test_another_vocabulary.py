"""A fine-tune whose tokenizer has more tokens than its base's is compared with its own, and not with the base's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from transformers import AutoTokenizer

from packager.doctor.case import read_reference
from packager.events import silent
from packager.formats.fine_tuned import resized_config
from packager.formats.gguf import GgufArray
from tests.peft_adapters import train


def test_the_converter_reads_the_fine_tunes_own_tokenizer(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    base, lora = tiny("qwen2.5"), tmp_path / "grown"
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["<|packy|>"], special_tokens=True)
    train(base, lora, vocab_size=len(tokenizer), r=2, target_modules=["q_proj"])
    tokenizer.save_pretrained(lora)

    reference = read_reference(base, lora, None, emit=silent)

    assert reference.metadata is not None, reference.no_metadata
    tokens = next(entry.value for entry in reference.metadata if entry.key == "tokenizer.ggml.tokens")
    assert isinstance(tokens, GgufArray)
    assert tokens.count == len(tokenizer)


def test_a_size_is_changed_wherever_a_configuration_has_it() -> None:
    values = {"vocab_size": 3, "layers": 2, "text_config": {"n_vocab": 3, "layers": 2}}
    assert resized_config(values, 5) == {"vocab_size": 5, "layers": 2, "text_config": {"n_vocab": 5, "layers": 2}}
    assert resized_config({"layers": 2}, 5) == {"layers": 2}
