from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from packager.artifacts import Message
from packager.chat.probes import every_probe, load_probes
from packager.chat.render import Renderer, RenderRefused, Setting, render
from packager.errors import InputInvalid, UnsafeInput
from packager.formats.tokenizer import read_tokenizer
from tests.chat.conftest import REAL_FAMILIES
from tests.chat.samples import CHATML, HANGS, HOSTILE, NO_SYSTEM, conversation, openai, openai_tools, tokens

PIECES = ["{% if true %}", "{%- if true -%}", "{% endif %}", "{{ 'x' }}", "{{- 'y' -}}", "{# c #}", "{#- c -#}",
          " ", "\n", "\t", "z", "{% for i in [1, 2] %}", "{% endfor %}"]  # fmt: skip
HELLO = conversation(("user", "Hello <b>&'\"中"))


@pytest.fixture(scope="module")
def renderer() -> Iterator[Renderer]:
    with Renderer("template.jinja", tokens(bos="<s>")) as made:
        yield made


def transformers_render(template: str, turns: list[dict[str, object]], **variables: Any) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    rendered, _ = render_jinja_template(
        [turns],
        chat_template=template,
        add_generation_prompt=True,
        bos_token="<s>",
        eos_token="<|im_end|>",
        **variables,
    )
    return str(rendered[0])


@pytest.mark.parametrize("family", REAL_FAMILIES)
def test_real_templates_render_as_in_transformers(
    family: str, checkpoint_folder: Callable[[str], Path], hf_tokenizer: Callable[[str], Any]
) -> None:
    facts = read_tokenizer(checkpoint_folder(family))
    assert facts.chat_template is not None
    with Renderer(family, facts) as renderer:
        for probe in every_probe():
            expected = hf_tokenizer(family).apply_chat_template(
                openai(probe), tools=openai_tools(probe), tokenize=False, add_generation_prompt=True
            )
            assert renderer.render(facts.chat_template, probe) == expected, probe.id


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m | tojson }}{% endfor %}{{ tools | tojson }}",
        "{% for m in messages %}{{ m.thinking }}/{{ m.reasoning_content }};{% endfor %}",
        "{% for m in messages if m.tool_calls %}{{ m.tool_calls[0].function.arguments.items() | list }}{% endfor %}",
        "{{ tools is none }} {{ tools | length if tools else 0 }}",
    ],
    ids=["everything", "both names of reasoning", "arguments are an object", "declared or none"],
)
def test_tools_and_reasoning_reach_a_template_as_in_transformers(renderer: Renderer, template: str) -> None:
    for probe in every_probe():
        expected = transformers_render(template, openai(probe), tools=openai_tools(probe))
        assert renderer.render(template, probe) == expected, probe.id


@pytest.mark.parametrize("family", REAL_FAMILIES)
def test_real_templates_render_without_generation_prompt_as_in_transformers(
    family: str, checkpoint_folder: Callable[[str], Path], hf_tokenizer: Callable[[str], Any]
) -> None:
    facts = read_tokenizer(checkpoint_folder(family))
    assert facts.chat_template is not None
    probe = load_probes()[3]
    expected = hf_tokenizer(family).apply_chat_template(openai(probe), tokenize=False)
    found = render(facts.chat_template, probe, facts, setting=Setting(generation_prompt=False))
    assert found == expected


@pytest.mark.parametrize(
    "template",
    [
        CHATML,
        "{{ messages | tojson }}",
        "{{ messages | tojson(indent=2) }}",
        "{{ messages | tojson(ensure_ascii=True, sort_keys=True, separators=(',', ':')) }}",
        "{{ bos_token }}{{ eos_token }}{{ unk_token }}|{{ pad_token is defined }}",
        "{{ tools is none }} {{ documents is none }} {{ add_generation_prompt }}",
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
        "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i>4 %}{% break %}{% endif %}{{ i }}{% endfor %}",
        "  {% if true %}\n    x\n  {% endif %}\n\ny\n",
        "{% set n = namespace(a=1, self=2) %}{% set n.b = 3 %}{{ n.a }}{{ n.b }}{{ n.self }}",
        "{{ dict(a=1).a }} {{ dict.fromkeys(['k'], 2).k }} {{ dict is defined }}",
        "{{ messages[0].missing }}|{{ messages[0]['content'][:3] }}|{{ messages | length }}",
        "{{ strftime_now is defined }}",
        "{{ 'a\n' }}\n{# comment #}\n{{ 'b' }}",
        "{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f(messages[0].content) }}",
    ],
    ids=["chatml", "tojson", "tojson indent", "tojson options", "named tokens", "what is passed", "generation block",
         "loop controls", "block trimming", "namespace", "dict", "undefined", "clock", "newlines", "macro"],
)  # fmt: skip
def test_rules_of_the_environment_are_those_of_transformers(renderer: Renderer, template: str) -> None:
    assert renderer.render(template, HELLO) == transformers_render(template, openai(HELLO))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=st.lists(
        st.sampled_from(
PIECES
        ),
        max_size=12,
    )
)  # fmt: skip
def test_blanks_around_blocks_are_kept_and_dropped_as_in_transformers(renderer: Renderer, pieces: list[str]) -> None:
    from jinja2 import TemplateSyntaxError

    template = "".join(pieces)
    try:
        expected = transformers_render(template, openai(HELLO))
    except TemplateSyntaxError:
        with pytest.raises(InputInvalid):
            renderer.render(template, HELLO)
    else:
        assert renderer.render(template, HELLO) == expected


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.text(max_size=200))
def test_contents_pass_through_unchanged(renderer: Renderer, content: str) -> None:
    assert renderer.render("{{ messages[0].content }}", (Message(role="user", content=content),)) == content


def test_raise_exception_is_a_value_with_the_templates_message(renderer: Renderer) -> None:
    found = renderer.render(NO_SYSTEM, conversation(("system", "x"), ("user", "y")))
    assert found == RenderRefused(message="System role not supported")
    assert isinstance(renderer.render(NO_SYSTEM, HELLO), str)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages[0].content + 1 }}", "TypeError"),
        ("{{ missing.attribute }}", "UndefinedError"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
        ("{% for t in tools %}{% endfor %}", "TypeError"),
        ("{{ messages | nofilter }}", None),
        ("{{ nofunction() }}", "UndefinedError"),
    ],
    ids=["type", "undefined", "division", "none is not iterable", "unknown filter", "unknown function"],
)
def test_an_error_at_run_time_refuses_the_conversation(renderer: Renderer, template: str, message: str | None) -> None:
    if message is None:
        with pytest.raises(InputInvalid, match=r"template\.jinja: not a Jinja template"):
            renderer.render(template, HELLO)
        return
    found = renderer.render(template, HELLO)
    assert isinstance(found, RenderRefused)
    assert message in found.message


def test_text_that_is_no_jinja_is_invalid_input_with_the_line(renderer: Renderer) -> None:
    with pytest.raises(InputInvalid, match=r"template\.jinja: not a Jinja template \(line 2") as caught:
        renderer.render("\n{% if %}", HELLO)
    assert caught.value.exit_code == 3
    assert "--template" in caught.value.hint


@pytest.mark.parametrize("template", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_templates_are_unsafe_and_named(template: str) -> None:
    with (
        Renderer("evil.jinja", tokens()) as renderer,
        pytest.raises(UnsafeInput, match=r"evil\.jinja: the template ") as caught,
    ):
        renderer.render(template, HELLO)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    "template",
    ["{% import 'os' as os %}", "{% from 'a' import b %}", "{% include 'a' %}", "{% extends 'a' %}"],
    ids=["import", "from", "include", "extends"],
)
def test_a_template_that_loads_another_is_unsafe(renderer: Renderer, template: str) -> None:
    with pytest.raises(UnsafeInput, match="loads another template"):
        renderer.names(template)


def test_the_renderer_works_on_after_a_template_that_hangs() -> None:
    with Renderer("evil.jinja", tokens()) as renderer:
        renderer.render(CHATML, HELLO)
        first = renderer.worker_pid
        with pytest.raises(UnsafeInput):
            renderer.render(HANGS, HELLO)
        assert renderer.worker_pid is None
        assert isinstance(renderer.render(CHATML, HELLO), str)
        assert renderer.worker_pid != first


def test_one_worker_serves_many_renders_and_is_gone_after_close() -> None:
    with Renderer("template.jinja", tokens()) as renderer:
        renderer.render(CHATML, HELLO)
        pid = renderer.worker_pid
        for _ in range(20):
            renderer.render(CHATML, HELLO)
        assert renderer.worker_pid == pid
    assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_names_are_what_the_template_takes_from_outside(renderer: Renderer) -> None:
    names = renderer.names("{% set a = 'one' %}{{ a }}{{ b }}{% if c is defined %}{{ strftime_now('%d') }}{% endif %}")
    assert names.free == ("b", "c", "strftime_now")
    assert names.constants == ("%d", "one")


def test_variables_and_absent_names_change_what_the_template_sees(renderer: Renderer) -> None:
    template = "{{ tools is defined }} {{ x }} {{ bos_token }}"
    assert renderer.render(template, HELLO) == "True  <s>"
    setting = Setting(absent=("tools",)).with_variable("x", "1").with_variable("bos_token", "B")
    assert renderer.render(template, HELLO, setting) == "False 1 B"


@pytest.mark.parametrize(
    ("value", "seen"),
    [(True, "True bool"), (False, "False bool"), (None, "None none"), (3, "3 number"), ("s", "s string")],
    ids=["true", "false", "none", "number", "text"],
)
def test_variables_keep_their_type(renderer: Renderer, value: str | bool | int | None, seen: str) -> None:
    template = (
        "{{ x }} {{ 'bool' if x is boolean else 'none' if x is none else 'string' if x is string else 'number' }}"
    )
    assert renderer.render(template, HELLO, Setting().with_variable("x", value)) == seen


def test_the_clock_can_be_set(renderer: Renderer) -> None:
    setting = Setting(now=datetime(2024, 7, 26, 13, 5))
    assert renderer.render("{{ strftime_now('%d %b %Y %H:%M') }}", HELLO, setting) == "26 Jul 2024 13:05"


def test_the_real_clock_is_used_otherwise(renderer: Renderer) -> None:
    assert renderer.render("{{ strftime_now('%Y') }}", HELLO) in (
        str(datetime.now().year),
        str(datetime.now().year - 1),
    )


def test_the_template_cannot_see_the_environment(renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "s3cret")
    with Renderer("template.jinja", tokens()) as fresh:
        fresh.render(CHATML, HELLO)
        environment = Path(f"/proc/{fresh.worker_pid}/environ")
        if environment.exists():
            assert b"s3cret" not in environment.read_bytes()
