"""Cells with their causes. The engines are made of rules, so that every cause can be planted alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from packager.artifacts import Conversation, Message, Outcome, ToolCall
from packager.codec import JsonObject
from packager.engines.engine import NotSupported
from packager.evidence import Cell
from packager.parity.template_matrix import Asked, TemplateMatrix, TemplateRow, template_cells

Turns = tuple[Message, ...]
REFUSED = NotSupported(code="TEMPLATE_ERROR", detail="no")
SILENT = NotSupported(code="NO_DEBUG_RENDER", detail="too old")


def said(*turns: tuple[str, str], name: str = "probe", group: str = "CORE") -> Conversation:
    return Conversation(id=name, group=group, messages=tuple(Message(role=r, content=c) for r, c in turns))


def prompt(turns: Turns) -> str:
    return "^" + "".join(f"<{turn.role}>{turn.content}|" for turn in turns)


def ids(text: str) -> tuple[int, ...]:
    return tuple(map(ord, text))


def reference_render(conversation: Conversation) -> str:
    return prompt(conversation.messages)


def compared(probe: Conversation, engine: Asked) -> Cell:
    text = reference_render(probe)
    expected = Asked(prompts=(text,), ids=(ids(text),))
    (found,) = template_cells((probe,), expected, engine, render=reference_render, piece=chr, stripped_bos="^")
    return found


def text_engine(probe: Conversation, change: Callable[[Turns], Turns]) -> Asked:
    text = prompt(change(probe.messages))
    return Asked(prompts=(text,), ids=(ids(text),))


def collated(turns: Turns) -> Turns:
    return (Message(role="user", content="\n\n".join(turn.content for turn in turns)),)


def stripped(turns: Turns) -> Turns:
    return tuple(Message(role=turn.role, content=turn.content.strip()) for turn in turns)


def merged(turns: Turns) -> Turns:
    return (Message(role="user", content=f"{turns[0].content}\n{turns[1].content}"),)


def shouted(turns: Turns) -> Turns:
    return tuple(Message(role=turn.role, content=turn.content.upper()) for turn in turns)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda found: (94, *found), "BOS_DUP"),
        (lambda found: found[1:], "BOS_LOST"),
        (lambda found: (*found, 5, 6), "EOS_ADDED"),
    ],
    ids=["another first id", "no first id", "ids behind the last"],
)
def test_ids_at_the_ends_have_their_codes(change: Callable[[tuple[int, ...]], tuple[int, ...]], code: str) -> None:
    probe = said(("user", "a"))
    text = reference_render(probe)
    found = compared(probe, Asked(prompts=(text,), ids=(change(ids(text)),)))
    assert (found.outcome, found.code) == (Outcome.FAILED, code)


@pytest.mark.parametrize(
    ("probe", "change", "code"),
    [
        pytest.param(said(("user", "a"), ("user", "b")), collated, "COLLATE", id="joined"),
        pytest.param(said(("user", " a ")), stripped, "TRIM", id="stripped"),
        pytest.param(said(("system", "s"), ("user", "a")), merged, "SYS_MERGE", id="system merged"),
        pytest.param(said(("user", "a")), shouted, "DIFFERS", id="unknown cause"),
        pytest.param(said(("user", "a ")), lambda turns: (), "DIFFERS", id="nothing left"),
    ],
)
def test_a_difference_has_the_cause_that_explains_it(
    probe: Conversation, change: Callable[[Turns], Turns], code: str
) -> None:
    found = compared(probe, text_engine(probe, change))
    assert (found.outcome, found.code) == (Outcome.FAILED, code)
    assert found.detail.startswith("character ")


@pytest.mark.parametrize(
    ("probe", "rule", "code"),
    [
        (said(("user", " a ")), str.strip, "TRIM"),
        (said(("user", "<x>a")), lambda content: content.removeprefix("<x>"), "CONTENT"),
    ],
    ids=["the template trims", "the template drops something"],
)
def test_an_engine_that_takes_contents_as_they_are(probe: Conversation, rule: Callable[[str], str], code: str) -> None:
    def render(conversation: Conversation) -> str:
        return prompt(tuple(Message(role=turn.role, content=rule(turn.content)) for turn in conversation.messages))

    expected = Asked(prompts=(render(probe),), ids=(ids(render(probe)),))
    (found,) = template_cells((probe,), expected, text_engine(probe, lambda turns: turns), render=render, piece=chr)
    assert (found.outcome, found.code) == (Outcome.FAILED, code)


@pytest.mark.parametrize(
    ("content", "change", "code"),
    [
        ("a", lambda found: (found[0], *found), "BOS_DUP"),
        ("a", lambda found: found[1:], "BOS_LOST"),
        ("a", lambda found: (*found[:-1], 7), "TOKENIZER"),
        ("Cafe\u0301", lambda found: (*found[:-1], 7), "NFC"),
    ],
    ids=["BOS twice", "BOS lost", "another token", "decomposed"],
)
def test_equal_text_with_other_ids(
    content: str, change: Callable[[tuple[int, ...]], tuple[int, ...]], code: str
) -> None:
    probe = said(("user", content))
    text = prompt(probe.messages)
    found = compared(probe, Asked(prompts=(text,), ids=(change(ids(text)),)))
    assert (found.outcome, found.code) == (Outcome.FAILED, code)
    assert found.detail.startswith("token ")


def test_a_count_that_disagrees_is_a_difference() -> None:
    probe = said(("user", "a"))
    text = prompt(probe.messages)
    found = compared(probe, Asked(prompts=(text,), ids=(ids(text),), counts=(len(text) - 1,)))
    assert found.outcome is Outcome.FAILED
    assert f"engine evaluated {len(text) - 1}" in found.detail


@pytest.mark.parametrize(
    ("answer", "outcome"), [(REFUSED, Outcome.FAILED), (SILENT, Outcome.NOT_CHECKED)], ids=["refused", "silent"]
)
def test_an_engine_without_an_answer_keeps_its_own_code(answer: NotSupported, outcome: Outcome) -> None:
    found = compared(said(("user", "a")), Asked(prompts=(answer,), ids=(answer,)))
    assert (found.outcome, found.code) == (outcome, answer.code)


@pytest.mark.parametrize(
    ("outcomes", "equal"),
    [
        ((("CORE", Outcome.PASSED), ("EXT", Outcome.FAILED)), True),
        ((("CORE", Outcome.PASSED), ("CORE", Outcome.FAILED)), False),
        ((("CORE", Outcome.NOT_CHECKED), ("EXT", Outcome.PASSED)), False),
        ((), False),
    ],
    ids=["odd one differs", "core differs", "no core one checked", "nothing"],
)
def test_equal_means_that_core_was_checked_and_agrees(outcomes: tuple[tuple[str, Outcome], ...], equal: bool) -> None:
    cells = tuple(Cell(conversation="c", group=group, outcome=outcome) for group, outcome in outcomes)
    rows = (
        TemplateRow(engine="a", version="1", cells=cells),
        TemplateRow(engine="b", version="", not_checked="absent"),
    )
    matrix = TemplateMatrix(source="s", original_sha256="0", reference="r", conversations=(), rows=rows)
    assert matrix.equal is equal


# --- tools and reasoning -----------------------------------------------------------------------------------------------

TOOL = JsonObject.of(
    {
        "type": "function",
        "function": {
            "name": "f",
            "parameters": {
                "type": "object",
                "properties": {"x": {"type": "string", "default": "y"}},
                "required": ["x"],
                "strict": True,
            },
        },
    }
)
# What Ollama 0.34.0 and LMDeploy 0.18.0 made of it, seen in their prompts.
IN_OLLAMA = (
    '{"type": "function", "function": {"name": "f", "description": "", "parameters": {"type": "object", "required": ["x"], '
    '"properties": {"x": {"type": "string"}}}}}'
)
IN_LMDEPLOY = (
    '{"description": null, "name": "f", "parameters": {"type": "object", "properties": {"x": {"type": "string", '
    '"default": "y"}}, "required": ["x"], "strict": true}}'
)
CALL = Message(
    role="assistant", content="", thinking="I call.", tool_calls=(ToolCall(name="f", arguments=JsonObject("{}")),)
)
TRIP = Conversation(
    id="trip",
    group="TOOLS",
    messages=(Message(role="user", content="a"), CALL, Message(role="tool", content="r", tool_name="f")),
    tools=(TOOL,),
)


def writes_all(conversation: Conversation) -> str:
    """A template that writes everything there is."""
    turns = (
        f"<{turn.role}>{turn.thinking and f'({turn.thinking})'}{turn.content}"
        + "".join(f"[{call.name}{call.arguments.text}]" for call in turn.tool_calls)
        for turn in conversation.messages
    )
    return "^" + "".join(tool.text for tool in conversation.tools) + "|".join(turns)


def against(engine_prompt: str, *, shows_text: bool, render: Callable[[Conversation], str] = writes_all) -> Cell:
    expected = Asked(prompts=(render(TRIP),), ids=(ids(render(TRIP)),))
    silent = NotSupported(code="NO_TEXT", detail="ids only")
    engine = Asked(prompts=(engine_prompt if shows_text else silent,), ids=(ids(engine_prompt),))
    (found,) = template_cells(
        (TRIP,), expected, engine, render=render, piece=chr, tokens=lambda changed: ids(render(changed))
    )
    return found


WHOLE = writes_all(TRIP)
QUIET = WHOLE.replace("(I call.)", "")
SAID = writes_all(replace(TRIP, tools=(), messages=TRIP.messages[:1]))


@pytest.mark.parametrize("shows_text", [True, False], ids=["text", "ids alone"])
@pytest.mark.parametrize(
    ("engine_prompt", "code"),
    [
        (QUIET, "THINKING"),
        (WHOLE.replace(TOOL.text, IN_OLLAMA), "TOOLJSON"),
        (WHOLE.replace(TOOL.text, IN_LMDEPLOY), "TOOLJSON"),
        (QUIET.replace(TOOL.text, IN_OLLAMA), "THINKING+TOOLJSON"),
        (WHOLE.replace(TOOL.text, ""), "NO_TOOLS"),
        (SAID, "THINKING+NO_TOOLS"),
        (WHOLE.replace("[f{}]", ""), "DIFFERS"),
        (WHOLE, ""),
    ],
    ids=["reasoning", "ollama", "lmdeploy", "both", "no tools", "text alone", "no call", "equal"],
)
def test_what_happened_to_tools_and_reasoning_is_tried(engine_prompt: str, code: str, shows_text: bool) -> None:
    found = against(engine_prompt, shows_text=shows_text)
    assert (found.code, found.outcome) == (code, Outcome.FAILED if code else Outcome.PASSED)


def never_declares(conversation: Conversation) -> str:
    return writes_all(replace(conversation, tools=()))


def never_calls(conversation: Conversation) -> str:
    return writes_all(replace(conversation, messages=conversation.messages[:1]))


@pytest.mark.parametrize(
    ("render", "detail"),
    [
        (never_declares, "the template leaves out declared tools"),
        (never_calls, "the template leaves out calls of tools"),
    ],
    ids=["declared", "called"],
)
def test_a_template_without_tools_leaves_nothing_to_compare(render: Callable[[Conversation], str], detail: str) -> None:
    found = against(render(TRIP), shows_text=True, render=render)
    assert (found.outcome, found.code, found.detail) == (Outcome.NOT_CHECKED, "IGNORED", detail)


def test_a_template_that_refuses_tools_leaves_nothing_to_compare() -> None:
    asked = Asked(prompts=(REFUSED,), ids=(REFUSED,))
    (found,) = template_cells((TRIP,), asked, asked, render=lambda changed: REFUSED, piece=chr)
    assert (found.outcome, found.code) == (Outcome.NOT_CHECKED, "IGNORED")
    assert found.detail == "the template refuses it (no)"
