"""Real chat templates, by family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REAL_FAMILIES = ("smollm2", "qwen2.5", "qwen3", "llama3.1")


@pytest.fixture(scope="session")
def checkpoint_folder(smollm2: Path, tiny: Callable[[str], Path]) -> Callable[[str], Path]:
    """`checkpoint_folder(family)`: a checkpoint with the family's real tokenizer and chat template."""
    return lambda family: smollm2 if family == "smollm2" else tiny(family)


@pytest.fixture(scope="session")
def hf_tokenizer(checkpoint_folder: Callable[[str], Path]) -> Callable[[str], Any]:
    """`hf_tokenizer(family)`: transformers' own tokenizer, the reference."""
    made: dict[str, Any] = {}

    def load(family: str) -> Any:
        from transformers import AutoTokenizer

        if family not in made:
            made[family] = AutoTokenizer.from_pretrained(checkpoint_folder(family))
        return made[family]

    return load
