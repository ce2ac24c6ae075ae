"""A template's model as Jinja, for a GGUF whose original template llama.cpp's Jinja cannot run.

Nothing of the original is in it but the texts that it writes around contents, with the few constructs that every Jinja has.
It takes no tools, and refuses what the model says nothing about, so that nothing is built that training did not see.

Source: llama.cpp `common/jinja/` as vendored by llama-cpp-python 0.3.36.
"""

from __future__ import annotations

from dataclasses import dataclass

from packager.artifacts import Conversation, Message, RewrittenForm
from packager.chat.canonical import Canonical, rewritten_header
from packager.chat.pins import jinja_text
from packager.chat.render import Renderer, RenderRefused, Setting
from packager.chat.turn_model import ASSISTANT, END, LATE_SYSTEM, START, SYSTEM, USER, Trim, TurnModel, Unsolved
from packager.chat.walks import random_walks

PROOF_WALKS = 50
_WITHOUT_PROMPT = Setting(generation_prompt=False)
_MARK = "xq0mark0qx"
_CUTS = {Trim.NEWLINES: '"\\n"', Trim.BLANKS: ""}
_REFUSAL = '{{- raise_exception("This form of the template takes text only: perhaps a system message, then user and assistant in turn.") -}}'  # fmt: skip  # noqa: E501


@dataclass(frozen=True, kw_only=True)
class _Closings:
    """What is written behind the last content when no answer is asked for; None where more than that is written."""

    user: str
    assistant: str | None


def rewritten_form(
    renderer: Renderer,
    canonical: Canonical,
    model: TurnModel | Unsolved,
    probes: tuple[Conversation, ...],
    *,
    source: str,
) -> RewrittenForm:
    """Give a template written anew, proved on every conversation that its model holds for, or why there is none.

    Args:
        renderer: Renders for the template's tokenizer.
        canonical: The canonical template, whose prompts are the reference.
        model: What was learned from it.
        probes: The conversations of the proof.
        source: Where the original came from, for the header.
    """
    if isinstance(model, Unsolved):
        return _none(model.code, f"conversation {model.conversation}: {model.reason}")
    closings = _closings(renderer, canonical.text, model)
    if closings is None:
        return _none(
            "POSITION", "how a conversation ends depends on whether an answer is asked for in more than a header"
        )
    text = rewritten_header(canonical.original_sha256, source, canonical.pins) + jinja_template(model, closings)
    for chat in (*probes, *random_walks(PROOF_WALKS, 2, alternate=True)):
        held = model.holds_for(chat.messages)
        found = renderer.render(text, chat)
        if held and found != renderer.render(canonical.text, chat):
            return _none("POSITION", f"conversation {chat.id}: written anew it builds another prompt")
    return RewrittenForm(text=text)


def jinja_template(model: TurnModel, closings: _Closings) -> str:
    """Give the Jinja of a model; white space between its tags does not count."""
    lines = [
        '{%- set state = namespace(previous="start", late="", has_late=false) -%}',
        _write(model.bos),
        "{%- for message in messages -%}",
        *_system_refused(model),
        '{%- if message["content"] is not string -%}' + _REFUSAL,
        *_system(model),
        '{%- elif message["role"] == "user" and state.previous != "user" -%}',
        *_user(model),
        '{%- elif message["role"] == "assistant" and state.previous == "user" -%}',
        _text(model, USER, ASSISTANT) + _content(model, USER, ASSISTANT, (USER,)),
        "{%- else -%}" + _REFUSAL,
        "{%- endif -%}",
        *_remember(model),
        "{%- endfor -%}",
        '{%- if add_generation_prompt and state.previous == "user" -%}' + _text(model, USER, END),
        '{%- elif state.previous == "user" -%}' + _write(closings.user),
        *_closed(closings),
        "{%- else -%}" + _REFUSAL,
        "{%- endif -%}",
    ]
    return "\n".join(line for line in lines if line)


def _closed(closings: _Closings) -> list[str]:
    if closings.assistant is None:
        return []
    return ['{%- elif state.previous == "assistant" and not add_generation_prompt -%}' + _write(closings.assistant)]


def _system_refused(model: TurnModel) -> list[str]:
    """Refuse before the content is looked at: llama.cpp takes that as a sign that system messages are supported."""
    if model.takes_system:
        return []
    return ['{%- if message["role"] == "system" -%}' + _REFUSAL + "{%- endif -%}"]


def _system(model: TurnModel) -> list[str]:
    if not model.takes_system:
        return []
    written = _text(model, START, SYSTEM) + _content(model, START, SYSTEM, (USER,))
    if model.moves_system:
        written = '{%- set state.late = message["content"] -%}{%- set state.has_late = true -%}'
    elif model.drops_system:
        written = ""
    elif model.empty_system is not None:
        written = '{%- if message["content"] -%}' + written + "{%- endif -%}"
    return ['{%- elif message["role"] == "system" and loop.first -%}' + written]


def _user(model: TurnModel) -> list[str]:
    cases = []
    if model.moves_system:
        cases.append(("state.has_late and loop.last", _late(model)))
    cases.append(('state.previous == "assistant"', _after(model, ASSISTANT)))
    if model.writes_system:
        cases.append(('state.previous == "system"', _after(model, SYSTEM)))
    if model.empty_system is not None:
        empty = _write(model.empty_system) + _content(model, START, USER, (ASSISTANT, END))
        cases.append(('state.previous == "empty system"', empty))
    lines = [f"{{%- {'elif' if place else 'if'} {test} -%}}{text}" for place, (test, text) in enumerate(cases)]
    return [*lines, "{%- else -%}" + _after(model, START), "{%- endif -%}"]


def _after(model: TurnModel, previous: str) -> str:
    return _text(model, previous, USER) + _content(model, previous, USER, (ASSISTANT, END))


def _late(model: TurnModel) -> str:
    def begin(previous: str) -> str:
        return _text(model, previous, LATE_SYSTEM) + _content(model, previous, LATE_SYSTEM, (USER,), "state.late")

    either = f'{{%- if state.previous == "assistant" -%}}{begin(ASSISTANT)}{{%- else -%}}{begin(START)}{{%- endif -%}}'
    return either + _text(model, LATE_SYSTEM, USER) + _content(model, LATE_SYSTEM, USER, (END,))


def _remember(model: TurnModel) -> list[str]:
    if not model.writes_system:
        return ['{%- if message["role"] != "system" -%}{%- set state.previous = message["role"] -%}{%- endif -%}']
    kept = '{%- set state.previous = message["role"] -%}'
    if model.empty_system is None:
        return [kept]
    return [
        '{%- if message["role"] == "system" and not message["content"] -%}{%- set state.previous = "empty system" -%}'
        f"{{%- else -%}}{kept}{{%- endif -%}}"
    ]


def _text(model: TurnModel, previous: str, following: str) -> str:
    edge = model.edge(previous, following)
    return _write(edge.text) if edge is not None else ""


def _write(text: str) -> str:
    return f"{{{{- {jinja_text(text)} -}}}}" if text else ""


def _content(
    model: TurnModel, previous: str, role: str, following: tuple[str, ...], value: str = 'message["content"]'
) -> str:
    left, right = model.cuts(previous, role, following)
    cut = f".lstrip({_CUTS[left]})" if left is not Trim.NOTHING else ""
    cut += f".rstrip({_CUTS[right]})" if right is not Trim.NOTHING else ""
    return f"{{{{- {value}{cut} -}}}}"


def _closings(renderer: Renderer, template: str, model: TurnModel) -> _Closings | None:
    """Find what ends a conversation without the header of an answer, None when that is not a text behind the content."""
    user, assistant = Message(role=USER, content="xq0user0qx"), Message(role=ASSISTANT, content=_MARK)
    asked, told = (renderer.render(template, turns, _WITHOUT_PROMPT) for turns in ((user,), (user, assistant)))
    prompt = renderer.render(template, (user,))
    if isinstance(asked, RenderRefused) or isinstance(told, RenderRefused) or isinstance(prompt, RenderRefused):
        return None
    head, _, closing = asked.partition(user.content)
    before, mark, closed = told.partition(_MARK)
    between = model.edge(USER, ASSISTANT)
    expected = f"{head}{user.content}{between.text if between else ''}"
    if not mark or not prompt.startswith(head + user.content):
        return None
    return _Closings(user=closing, assistant=closed if before == expected else None)


def _none(code: str, reason: str) -> RewrittenForm:
    return RewrittenForm(text=None, code=code, reason=reason)
