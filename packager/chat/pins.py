"""The variables that engines pass to a template and transformers does not, and what fixes them.

A pin is written only where it changes a prompt: a switch whose default in the engines builds what training saw (thinking in
Qwen3) stays a switch, so that it still works there. `thinking` and `reasoning_effort` are passed only when a request asks
for them, so they always stay switches.

Source: llama.cpp `common/chat.cpp` (`common_chat_template_direct_apply_impl`, `common_chat_extra_context`), as vendored by
llama-cpp-python 0.3.36.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from packager.artifacts import Conversation, Message, Pin
from packager.chat.render import Renderer, RenderRefused, Setting, TemplateNames, Value

# A day is in no training set twice, so no value is the right one; this is the one that Meta's own templates fall back to.
FIXED_DAY = datetime(2024, 7, 26)
_OTHER_DAY = datetime(2031, 1, 7, 9, 8, 7)
_CLOCK = "strftime_now"
# What the engines pass where transformers passes nothing.
_INJECTED: dict[str, tuple[Value, ...]] = {
    "date_string": (_OTHER_DAY.strftime("%d %b %Y"),),
    "datetime": (_OTHER_DAY.strftime("%b %d %Y"),),
    "enable_thinking": (True,),
    # what `--reasoning-preserve`, on by default, sets (`caps_apply_preserve_reasoning`)
    "preserve_thinking": (True,),
    "clear_thinking": (False,),
    "truncate_history_thinking": (False,),
    "drop_thinking": (False,),
}
# What engines pass from the GGUF, where every model has one, and transformers only where the tokenizer names it: Qwen's names
# no BOS, and its GGUF has <|endoftext|> for one.
_TOKENS = ("bos_token", "eos_token")
_A_TOKEN = "xq7token7qx"  # noqa: S105  # stands for whatever the GGUF says
# What transformers passes as None and llama.cpp does not pass at all.
_OMITTED = ("tools", "documents")
# llama.cpp writes a system message into the user's where a template does not even look at its content (`caps_get`).
_READ_MESSAGES = '{%- for message in messages -%}{%- if message["content"] -%}{%- endif -%}{%- endfor -%}'
_SYSTEM = Message(role="system", content="xq7system7qx")
_USER = Message(role="user", content="xq7user7qx")
_DATE_FORMAT = re.compile(r"(?:%[-#]?[A-Za-z]|[ ,./:T-])+")

Renders = tuple[str | RenderRefused, ...]


@dataclass(frozen=True, kw_only=True)
class Pinned:
    """The pins of a template, as values and as Jinja, and the setting under which the original builds the same prompts."""

    pins: tuple[Pin, ...]
    prologue: tuple[str, ...]
    setting: Setting


def find_pins(renderer: Renderer, template: str, probes: tuple[Conversation, ...]) -> Pinned:
    """Give what must be fixed in front of a template so that every engine builds the prompts of transformers.

    Args:
        renderer: Renders for the template's tokenizer.
        template: The original text.
        probes: The conversations that decide whether a variable matters.
    """
    names = renderer.names(template)
    pins: list[Pin] = []
    prologue: list[str] = []
    setting = Setting()
    if _differs(renderer, template, probes, Setting(now=FIXED_DAY), Setting(now=_OTHER_DAY)):
        setting = Setting(now=FIXED_DAY)
        pins.append(_clock_pin())
        prologue.append(_clock_macro(names))
    reference = renders(renderer, template, probes, setting)
    for name, values in _injected(renderer).items():
        if name not in names.free:
            continue
        if all(renders(renderer, template, probes, setting.with_variable(name, v)) == reference for v in values):
            continue
        value = _value_of_absence(renderer, template, probes, setting, name, names)
        if value is not None:
            pins.append(Pin(name=name, value=value, reason="engines pass a value of their own, training passed none"))
            prologue.append(f"{{%- set {name} = {value} -%}}")
    for name in _OMITTED:
        if name in names.free and _differs(renderer, template, probes, setting, _without(setting, name)):
            pins.append(Pin(name=name, value="none", reason="training passed none, llama.cpp leaves it undefined"))
            prologue.append(f"{{%- if {name} is not defined -%}}{{%- set {name} = none -%}}{{%- endif -%}}")
    if _drops_system(renderer, template, setting):
        pins.append(
            Pin(name="messages", value="read", reason="training dropped system messages, llama.cpp merges unread ones")
        )
        prologue.append(_READ_MESSAGES)
    return Pinned(pins=tuple(pins), prologue=tuple(prologue), setting=setting)


def engine_settings(renderer: Renderer, setting: Setting) -> tuple[Setting, ...]:
    """Give what engines do to a template that transformers does not, as settings: each variable passed, each left out."""
    injected = _injected(renderer)
    passed = tuple(setting.with_variable(name, value) for name, values in injected.items() for value in values)
    left_out = tuple(_without(setting, name) for name in _OMITTED)
    another_day = Setting(variables=setting.variables, absent=setting.absent, now=_OTHER_DAY)
    return (*passed, *left_out, another_day)


def renders(renderer: Renderer, template: str, probes: tuple[Conversation, ...], setting: Setting) -> Renders:
    """Give the prompt, or the refusal, for each conversation."""
    return tuple(renderer.render(template, probe, setting) for probe in probes)


def jinja_text(text: str) -> str:
    """Give a string as a Jinja literal that jinja2 and llama.cpp read alike."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _injected(renderer: Renderer) -> dict[str, tuple[Value, ...]]:
    """Give what engines pass; of the tokens those that a tokenizer lacks. Without a tokenizer nothing is known of them."""
    lacking = [name for name in _TOKENS if renderer.token_names and name not in renderer.token_names]
    return _INJECTED | dict.fromkeys(lacking, (_A_TOKEN,))


def _differs(renderer: Renderer, template: str, probes: tuple[Conversation, ...], one: Setting, other: Setting) -> bool:
    return renders(renderer, template, probes, one) != renders(renderer, template, probes, other)


def _without(setting: Setting, name: str) -> Setting:
    return Setting(variables=setting.variables, absent=(*setting.absent, name), now=setting.now)


def _value_of_absence(
    renderer: Renderer,
    template: str,
    probes: tuple[Conversation, ...],
    setting: Setting,
    name: str,
    names: TemplateNames,
) -> str | None:
    """Find the value, as Jinja, that builds what the variable's absence builds; the template's own texts are tried too."""
    reference = renders(renderer, template, probes, setting)
    dates = {FIXED_DAY.strftime(text) for text in names.constants if _DATE_FORMAT.fullmatch(text) and "%" in text}
    candidates: list[tuple[Value, str]] = [(False, "false"), (True, "true"), (None, "none")]
    candidates += [(text, jinja_text(text)) for text in ("", *sorted(dates), *names.constants)]
    for value, literal in candidates:
        if renders(renderer, template, probes, setting.with_variable(name, value)) == reference:
            return literal
    return None


def _drops_system(renderer: Renderer, template: str, setting: Setting) -> bool:
    """Whether a system message leaves no trace in the prompt."""
    prompt = renderer.render(template, (_SYSTEM, _USER), setting)
    return isinstance(prompt, str) and prompt == renderer.render(template, (_USER,), setting)


def _clock_pin() -> Pin:
    return Pin(
        name=_CLOCK,
        value=jinja_text(FIXED_DAY.strftime("%d %b %Y")),
        reason="the prompt would change every day; edit the template to have another day, or the real one",
    )


def _clock_macro(names: TemplateNames) -> str:
    """Write a macro that shadows the engines' clock, with an answer for every format the template asks for."""
    default = FIXED_DAY.strftime("%d %b %Y")
    formats = [text for text in names.constants if _DATE_FORMAT.fullmatch(text) and "%" in text]
    known = {text: FIXED_DAY.strftime(text) for text in formats if FIXED_DAY.strftime(text) != default}
    branches = "".join(
        f"{{%- {'elif' if index else 'if'} f == {jinja_text(text)} -%}}{value}"
        for index, (text, value) in enumerate(known.items())
    )
    body = f"{branches}{{%- else -%}}{default}{{%- endif -%}}" if known else default
    return f"{{%- macro {_CLOCK}(f) -%}}{body}{{%- endmacro -%}}"
