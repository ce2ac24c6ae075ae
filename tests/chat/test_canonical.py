from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from packager.artifacts import Conversation
from packager.chat.canonical import HEADER_CHARACTERS, canonicalise
from packager.chat.probes import every_probe, load_probes
from packager.chat.render import Renderer, RenderRefused, Setting
from packager.errors import PackagerError, UnsafeInput
from packager.formats.tokenizer import read_tokenizer
from tests.chat import samples
from tests.chat.conftest import REAL_FAMILIES
from tests.chat.samples import openai, openai_tools

SOURCE = "the base's chat template"
PIECES = [" ", "\n", "\t", "{{ 'x' }}", "{{- 'y' }}", "{% if true %}", "{%- if true %}", "{% endif %}", "{# c #}", "z"]


@pytest.fixture(scope="module")
def renderer() -> Iterator[Renderer]:
    with Renderer(SOURCE, samples.tokens(bos="<s>")) as made:
        yield made


@pytest.mark.parametrize("family", REAL_FAMILIES)
def test_canonical_renders_in_transformers_what_the_original_renders(
    family: str, checkpoint_folder: Callable[[str], Path], hf_tokenizer: Callable[[str], Any]
) -> None:
    facts = read_tokenizer(checkpoint_folder(family))
    assert facts.chat_template is not None
    with Renderer(family, facts) as renderer:
        found = canonicalise(renderer, facts.chat_template, every_probe(), source=SOURCE, bos_token=facts.bos_token)
    tokenizer = hf_tokenizer(family)
    for probe in every_probe():
        given = {"tools": openai_tools(probe), "tokenize": False, "add_generation_prompt": True}
        original = tokenizer.apply_chat_template(openai(probe), **given)
        canonical = tokenizer.apply_chat_template(openai(probe), chat_template=found.text, **given)
        assert canonical == original, probe.id


@pytest.mark.parametrize("family", REAL_FAMILIES)
def test_leading_bos_is_what_training_token_ids_start_with(
    family: str, checkpoint_folder: Callable[[str], Path], hf_tokenizer: Callable[[str], Any]
) -> None:
    facts = read_tokenizer(checkpoint_folder(family))
    assert facts.chat_template is not None
    with Renderer(family, facts) as renderer:
        found = canonicalise(renderer, facts.chat_template, load_probes(), source=SOURCE, bos_token=facts.bos_token)
    tokenizer = hf_tokenizer(family)
    ids = tokenizer.apply_chat_template(openai(load_probes()[0]), add_generation_prompt=True)["input_ids"]
    assert found.leading_bos == (tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id)


@pytest.mark.parametrize(
    "template",
    [
        samples.CHATML, samples.DATED, samples.CLOCKED, samples.TWO_CLOCKS, samples.THINKS_BY_DEFAULT,
        samples.THINKS_IF_TOLD, samples.ASKS_FOR_NONE, samples.NO_SYSTEM, samples.TRIMS,
        "\n" + samples.CHATML, "  " + samples.CHATML, "\n\n  " + samples.CHATML, "  text " + samples.CHATML,
        "\n  {{- 'x' }}" + samples.CHATML, " \n\t{{ 'x' }}" + samples.CHATML, "\r\n" + samples.CHATML, samples.CHATML + "\n",
        "\n  " + samples.DATED, " x" + samples.THINKS_IF_TOLD, "  {{ bos_token }}" + samples.THINKS_IF_TOLD,
        "{# a comment #}\n" + samples.CHATML, "{#- another -#}\n " + samples.CHATML,
    ],
    ids=[
        "chatml", "date", "clock", "two clocks", "thinks by default", "thinks if told", "tools", "no system", "trims",
        "newline first", "blanks first", "lines first", "text first", "stripping expression first", "line and tab first",
        "carriage return first", "newline last", "blanks and a date", "text and a switch", "expression and a switch",
        "comment first", "stripping comment first",
    ],
)  # fmt: skip
def test_header_and_pins_change_no_prompt(renderer: Renderer, template: str) -> None:
    found = canonicalise(renderer, template, load_probes(), source=SOURCE, bos_token="<s>")
    assert found.text.endswith(template)
    plain = [reference(template, probe) for probe in load_probes()]
    ours = [renderer.render(found.text, probe) for probe in load_probes()]
    assert [text for text in ours if not isinstance(text, RenderRefused)] == [
        text for text in plain if text is not None
    ]


def reference(template: str, probe: Conversation) -> str | None:
    """transformers' own render on the pinned day, None where the template refuses."""
    from transformers.utils.chat_template_utils import _cached_compile_jinja_template

    compiled = _cached_compile_jinja_template(template)
    compiled.globals["strftime_now"] = datetime(2024, 7, 26).strftime
    variables = {"tools": None, "documents": None, "bos_token": "<s>", "eos_token": "<|im_end|>"}
    try:
        return str(compiled.render(messages=openai(probe), add_generation_prompt=True, **variables))
    except jinja2.TemplateError:
        return None


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=st.lists(
        st.sampled_from(PIECES),
        max_size=8,
    )
)  # fmt: skip
def test_law_canonical_renders_like_the_original_whatever_it_begins_with(renderer: Renderer, pieces: list[str]) -> None:
    template = "".join(pieces) + samples.CHATML
    probes = load_probes()[:2]
    try:
        expected = [renderer.render(template, probe) for probe in probes]
    except PackagerError:
        return  # an unbalanced block: no template at all
    found = canonicalise(renderer, template, probes, source=SOURCE, bos_token=None)
    assert [renderer.render(found.text, probe) for probe in probes] == expected


@pytest.mark.parametrize("template", [samples.CHATML, samples.CLOCKED], ids=["without pins", "with pins"])
def test_the_header_is_long_enough_and_says_what_this_is(renderer: Renderer, template: str) -> None:
    found = canonicalise(renderer, template, load_probes(), source=SOURCE, bos_token=None)
    header = found.text[: found.text.index("#}") + 2]
    assert len(header) >= HEADER_CHARACTERS
    assert found.original_sha256 == hashlib.sha256(template.encode()).hexdigest()
    assert found.original_sha256 in header
    assert SOURCE in header
    assert all(pin.name in header for pin in found.pins)


@pytest.mark.parametrize("word", ["tools", "tool_call", "<think>", "</think>", "[TOOL_CALLS]", "{{", "{%"])
def test_the_header_has_none_of_the_words_engines_search_for(renderer: Renderer, word: str) -> None:
    found = canonicalise(renderer, samples.CLOCKED, load_probes(), source=SOURCE, bos_token=None)
    assert word not in found.text[: found.text.index("#}")]


@pytest.mark.parametrize("name", ["a#}{{ 1 }}.jinja", "{{ x }}.jinja", "<think>.jinja", "模板.jinja"], ids=repr)
def test_a_file_name_cannot_break_out_of_the_header(renderer: Renderer, name: str) -> None:
    found = canonicalise(renderer, samples.CHATML, load_probes(), source=f"the file {name}", bos_token=None)
    header = found.text[: found.text.index("#}")]
    assert "{{" not in header
    assert "<think>" not in header
    assert renderer.render(found.text, load_probes()[0]) == renderer.render(samples.CHATML, load_probes()[0])


def test_the_same_template_gives_the_same_text(renderer: Renderer) -> None:
    texts = {
        canonicalise(renderer, samples.CLOCKED, load_probes(), source=SOURCE, bos_token=None).text for _ in range(2)
    }
    assert len(texts) == 1


@pytest.mark.parametrize(
    ("setting", "template"),
    [
        (Setting().with_variable("date_string", "01 Jan 2031"), samples.DATED),
        (Setting().with_variable("enable_thinking", True), samples.THINKS_IF_TOLD),
        (Setting(absent=("tools", "documents")), samples.ASKS_FOR_NONE),
        (Setting().with_variable("date_string", "01 Jan 2031"), samples.CLOCKED),
    ],
    ids=["date", "thinking", "no tools", "clock"],
)
def test_what_engines_pass_no_longer_changes_a_prompt(renderer: Renderer, setting: Setting, template: str) -> None:
    found = canonicalise(renderer, template, load_probes(), source=SOURCE, bos_token=None)
    for probe in load_probes():
        assert (
            renderer.render(template, probe, setting) != renderer.render(template, probe) or template == samples.CLOCKED
        )
        assert renderer.render(found.text, probe, setting) == renderer.render(found.text, probe)


def test_a_switch_stays_a_switch(renderer: Renderer) -> None:
    found = canonicalise(renderer, samples.THINKS_BY_DEFAULT, load_probes(), source=SOURCE, bos_token=None)
    off = renderer.render(found.text, load_probes()[0], Setting().with_variable("enable_thinking", False))
    assert isinstance(off, str)
    assert off.endswith("<think></think>")


def test_refused_conversations_are_listed_and_stay_refused(renderer: Renderer) -> None:
    found = canonicalise(renderer, samples.NO_SYSTEM, load_probes(), source=SOURCE, bos_token=None)
    assert ("system-user", "System role not supported") in found.refuses
    assert isinstance(renderer.render(found.text, load_probes()[1]), RenderRefused)


def test_a_template_that_refuses_everything_is_unsafe(renderer: Renderer) -> None:
    with pytest.raises(UnsafeInput, match="refuses a conversation of one user message") as caught:
        canonicalise(renderer, "{{ raise_exception('never') }}", load_probes(), source=SOURCE, bos_token=None)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("template", "bos", "leads"),
    [
        ("{{ bos_token }}" + samples.CHATML, "<s>", True),
        (samples.CHATML, "<s>", False),
        (samples.CHATML, "<|im_start|>", True),
        (samples.CHATML, None, False),
        ("{% if messages[0].role == 'system' %}<s>{% endif %}" + samples.CHATML, "<s>", False),
    ],
    ids=["written", "not written", "is the turn's own token", "no bos", "only with a system message"],
)
def test_leading_bos_needs_it_in_every_prompt(renderer: Renderer, template: str, bos: str | None, leads: bool) -> None:
    assert canonicalise(renderer, template, load_probes(), source=SOURCE, bos_token=bos).leading_bos is leads
