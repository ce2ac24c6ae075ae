"""Prompts that people can read, for each real template and probe; `scripts/update-goldens` writes them with transformers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from packager.artifacts import Conversation
from packager.chat.canonical import canonicalise
from packager.chat.probes import every_probe
from packager.chat.render import Renderer
from packager.formats.tokenizer import read_tokenizer
from tests.chat.conftest import REAL_FAMILIES
from tests.chat.samples import openai, openai_tools

GOLDENS = Path(__file__).parents[1] / "goldens" / "chat"
UPDATING = bool(os.environ.get("PACKAGER_UPDATE_GOLDENS"))


def golden(family: str, probe: Conversation) -> Path:
    return GOLDENS / family / f"{probe.id}.txt"


@pytest.mark.parametrize("family", REAL_FAMILIES)
def test_canonical_prompts_are_the_golden_ones(
    family: str, checkpoint_folder: Callable[[str], Path], hf_tokenizer: Callable[[str], Any]
) -> None:
    if UPDATING:
        write(family, hf_tokenizer(family))
    facts = read_tokenizer(checkpoint_folder(family))
    assert facts.chat_template is not None
    with Renderer(family, facts) as renderer:
        found = canonicalise(renderer, facts.chat_template, every_probe(), source=family, bos_token=facts.bos_token)
        for probe in every_probe():
            expected = golden(family, probe).read_bytes().decode()
            assert renderer.render(found.text, probe) == expected, probe.id


def test_there_is_no_golden_without_a_probe() -> None:
    expected = {golden(family, probe) for family in REAL_FAMILIES for probe in every_probe()}
    assert set(GOLDENS.glob("*/*")) == expected


def write(family: str, tokenizer: Any) -> None:
    (GOLDENS / family).mkdir(parents=True, exist_ok=True)
    for probe in every_probe():
        text = tokenizer.apply_chat_template(
            openai(probe), tools=openai_tools(probe), tokenize=False, add_generation_prompt=True
        )
        golden(family, probe).write_bytes(text.encode())
