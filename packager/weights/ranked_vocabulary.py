"""A sentencepiece vocabulary out of tokenizer.json alone, where a folder has no tokenizer.model.

llama.cpp merges two pieces by the score of what they become. sentencepiece's scores are the order in which its merges were
learned, which tokenizer.json lists; the converter gives every piece the same score in their place, and llama.cpp then merges
from left to right. It also puts a blank in front of a text, whether or not the tokenizer does.

Source: llama.cpp `src/llama-vocab.cpp` (`llm_tokenizer_spm_session`), gguf-py `gguf/vocab.py` (`LlamaHfVocab.get_token_score`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from packager.formats.json_file import read_object
from packager.formats.tokenizer import TOKENIZER_LIMIT_BYTES

_MODEL, _SCORES, _TOKENS = "tokenizer.ggml.model", "tokenizer.ggml.scores", "tokenizer.ggml.tokens"
_PREFIX = "tokenizer.ggml.add_space_prefix"


def rank_scores(folder: Path, writer: Any) -> None:
    """Give the pieces of a vocabulary that was made without tokenizer.model the scores that its merges say.

    Args:
        folder: A Hugging Face folder.
        writer: The converter's gguf-py writer, with the vocabulary in it.
    """
    values = writer.kv_data[0]
    path = folder / "tokenizer.json"
    if (folder / "tokenizer.model").is_file() or not path.is_file():
        return
    if _MODEL not in values or values[_MODEL].value != "llama":
        return
    found: Any = read_object(path, limit_bytes=TOKENIZER_LIMIT_BYTES).values
    merges = found["model"]["merges"]
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault("".join(merge if isinstance(merge, list) else merge.split(" ", 1)), rank)
    texts = [
        token if isinstance(token, str) else bytes(token).decode("utf-8", "replace") for token in values[_TOKENS].value
    ]
    values[_SCORES].value = [-float(ranks.get(text, len(merges))) for text in texts]
    if _PREFIX not in values:
        writer.add_add_space_prefix(_adds_blank(found))


def _adds_blank(found: Any) -> bool:
    """Whether the tokenizer puts a blank in front of a text."""
    parts = [part for name in ("normalizer", "pre_tokenizer") for part in _parts(found.get(name))]
    return any(
        part["type"] == "Prepend" or (part["type"] == "Metaspace" and part.get("prepend_scheme", "always") != "never")
        for part in parts
    )


def _parts(step: Any) -> list[Any]:
    if step is None:
        return []
    return list(step.get("normalizers") or step.get("pretokenizers") or []) if step["type"] == "Sequence" else [step]
