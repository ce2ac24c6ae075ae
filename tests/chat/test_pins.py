from __future__ import annotations

from collections.abc import Iterator

import pytest

from packager.chat.pins import FIXED_DAY, engine_settings, find_pins, jinja_text
from packager.chat.probes import core_probes, every_probe
from packager.chat.render import Renderer, Setting
from packager.formats.tokenizer import NO_TOKENS, TokenizerFacts
from tests.chat import samples
from tests.chat.solvable import DROPS_SYSTEM

NONE_IS_NOTHING = samples.CHATML + (
    "{% if not enable_thinking is defined %}A{% elif enable_thinking is none %}A{% endif %}"
)


@pytest.fixture(scope="module")
def renderer() -> Iterator[Renderer]:
    with Renderer("template.jinja", samples.tokens(bos="<s>")) as made:
        yield made


def pins_of(renderer: Renderer, template: str) -> dict[str, str]:
    return {pin.name: pin.value for pin in find_pins(renderer, template, core_probes()).pins}


@pytest.mark.parametrize(
    ("template", "pins"),
    [
        (samples.CHATML, {}),
        (samples.CHATML_WITH_DEFAULT, {}),
        (samples.DATED, {"date_string": '"26 Jul 2024"'}),
        (samples.CLOCKED, {"strftime_now": '"26 Jul 2024"', "date_string": '"26 Jul 2024"'}),
        (samples.TWO_CLOCKS, {"strftime_now": '"26 Jul 2024"'}),
        (samples.THINKS_BY_DEFAULT, {}),
        (samples.THINKS_IF_TOLD, {"enable_thinking": "false"}),
        (samples.ASKS_FOR_NONE, {"tools": "none"}),
        (samples.CHATML + "{% if preserve_thinking %}P{% endif %}", {"preserve_thinking": "false"}),
        (samples.CHATML + "{% if not (clear_thinking is defined and not clear_thinking) %}C{% endif %}",
         {"clear_thinking": "true"}),
        (NONE_IS_NOTHING, {"enable_thinking": "none"}),
        ("{{ datetime }}" + samples.CHATML, {"datetime": '""'}),
        ("{% if false %}{{ date_string }}{{ enable_thinking }}{% endif %}" + samples.CHATML, {}),
        (DROPS_SYSTEM, {"messages": "read"}),
        (samples.CHATML + "{% if thinking %}T{% endif %}{% if reasoning_effort == 'high' %}H{% endif %}", {}),
    ],
    ids=["no variable", "default system", "date the template has", "date of the clock", "two clocks", "thinks by default",
         "thinks if told", "tools is not none", "keeps thoughts if told", "clears thoughts by default",
         "none stands for nothing", "date with no text", "in dead code",
         "system messages are dropped", "switches that engines leave alone"],
)  # fmt: skip
def test_a_variable_is_pinned_only_where_engines_build_another_prompt(
    renderer: Renderer, template: str, pins: dict[str, str]
) -> None:
    assert pins_of(renderer, template) == pins


def test_every_pin_says_why(renderer: Renderer) -> None:
    for template in (samples.DATED, samples.CLOCKED, samples.THINKS_IF_TOLD, samples.ASKS_FOR_NONE):
        assert all(pin.reason for pin in find_pins(renderer, template, core_probes()).pins)


def test_the_clock_answers_every_format_the_template_asks_for(renderer: Renderer) -> None:
    found = find_pins(renderer, samples.TWO_CLOCKS, core_probes())
    prompt = renderer.render("".join(found.prologue) + samples.TWO_CLOCKS, core_probes()[0])
    assert isinstance(prompt, str)
    assert prompt.startswith("2024-07-26 26 Jul 2024 00:00\n")


def test_the_clock_is_left_alone_where_nothing_reads_it(renderer: Renderer) -> None:
    assert find_pins(renderer, samples.CHATML, core_probes()).setting == Setting()
    assert find_pins(renderer, samples.CLOCKED, core_probes()).setting.now == FIXED_DAY


def test_a_list_that_is_given_still_reaches_a_pinned_template(renderer: Renderer) -> None:
    found = find_pins(renderer, samples.ASKS_FOR_NONE, core_probes())
    prompt = renderer.render(
        "".join(found.prologue) + samples.ASKS_FOR_NONE, core_probes()[0], Setting().with_variable("tools", "given")
    )
    assert isinstance(prompt, str)
    assert prompt.startswith("TOOLS")


WRITES_BOS = "{{- bos_token }}" + samples.CHATML + "{{- eos_token }}"


@pytest.mark.parametrize(
    ("tokens", "pins"),
    [
        (samples.tokens(bos="<s>"), {}),
        (samples.tokens(bos=None), {"bos_token": '""'}),
        (samples.tokens(bos="<s>", eos=None), {"eos_token": '""'}),
        (NO_TOKENS, {}),
    ],
    ids=["both", "no BOS", "no EOS", "no tokenizer"],
)
def test_a_token_that_the_tokenizer_lacks_is_pinned_to_nothing(tokens: TokenizerFacts, pins: dict[str, str]) -> None:
    with Renderer("template.jinja", tokens) as renderer:
        assert pins_of(renderer, WRITES_BOS) == pins
        assert pins_of(renderer, samples.CHATML) == {}


def test_a_setting_leaves_out_only_what_is_not_declared(renderer: Renderer) -> None:
    template = "{% if tools is defined %}{{ tools | length if tools else 'none' }}{% else %}undefined{% endif %}"
    declares = next(probe for probe in every_probe() if probe.tools)
    without = Setting(absent=("tools",))
    assert [renderer.render(template, probe, without) for probe in (core_probes()[0], declares)] == ["undefined", "1"]
    assert renderer.render(template, core_probes()[0]) == "none"


def test_declared_tools_reach_a_template_whose_tools_are_pinned(renderer: Renderer) -> None:
    found = find_pins(renderer, samples.ASKS_FOR_NONE, every_probe())
    assert [pin.name for pin in found.pins] == ["tools"]
    for probe in every_probe():
        prompt = renderer.render("".join(found.prologue) + samples.ASKS_FOR_NONE, probe, Setting(absent=("tools",)))
        assert isinstance(prompt, str)
        assert prompt.startswith("TOOLS") == bool(probe.tools)


def test_engine_settings_pass_and_leave_out_what_engines_do(renderer: Renderer) -> None:
    settings = engine_settings(renderer, Setting())
    assert {name for setting in settings for name, _ in setting.variables} == {
        "date_string", "datetime", "enable_thinking", "preserve_thinking", "clear_thinking", "truncate_history_thinking",
        "drop_thinking",
    }  # fmt: skip
    assert {name for setting in settings for name in setting.absent} == {"tools", "documents"}
    assert any(setting.now is not None for setting in settings)


@pytest.mark.parametrize("text", ["", "26 Jul 2024", 'a"b', "a\\b", "a\nb", "it's", "中"], ids=repr)
def test_jinja_text_reads_back_as_itself(renderer: Renderer, text: str) -> None:
    assert renderer.render("{{ " + jinja_text(text) + " }}", core_probes()[0]) == text
