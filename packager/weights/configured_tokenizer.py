"""A tokenizer with the special tokens around a text that tokenizer_config.json asks for, as transformers 4 put them there.

llama.cpp's converter knows how a tokenizer splits a text by the sha256 of its ids for one text, and those were taken with
transformers 4. There `add_bos_token` and `add_eos_token` decided what surrounds a text; for some classes transformers 5
leaves it to tokenizer.json, which for Command R puts two tokens behind every text. What surrounds a text says nothing
about how it is split.

Source: transformers 4.57 `models/cohere/tokenization_cohere_fast.py`, `update_post_processor`; transformers 5
`tokenization_utils_tokenizers.py`; llama.cpp `convert_hf_to_gguf_update.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from packager.formats.json_file import read_object


class _Configured:
    def __init__(self, tokenizer: Any, before: list[int], behind: list[int]) -> None:
        self._tokenizer = tokenizer
        self._before = before
        self._behind = behind

    def encode(self, text: str) -> list[int]:
        """Give the ids of a text with the special tokens that the configuration asks for."""
        return [*self._before, *self._tokenizer.encode(text, add_special_tokens=False), *self._behind]


def configured_tokenizer(folder: Path, tokenizer: Any) -> Any:
    """Give an object whose `encode` does what the folder's tokenizer_config.json says about BOS and EOS.

    Args:
        folder: A Hugging Face folder.
        tokenizer: Its tokenizer, as transformers loads it; given back as it is where the configuration says nothing.
    """
    path = folder / "tokenizer_config.json"
    config = read_object(path) if path.is_file() else None
    flags = [config.flag(name) if config is not None else None for name in ("add_bos_token", "add_eos_token")]
    if flags == [None, None]:
        return tokenizer
    ends = zip(flags, (tokenizer.bos_token_id, tokenizer.eos_token_id), strict=True)
    before, behind = ([token] if flag and token is not None else [] for flag, token in ends)
    return _Configured(tokenizer, before, behind)
