"""Models learned from prompts, against the templates they were learned from."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packager.artifacts import Message
from packager.chat.probes import load_probes
from packager.chat.render import Renderer, RenderRefused
from packager.chat.solve import solve_turns
from packager.chat.turn_model import Trim, TurnModel, Unsolved, alternates
from packager.chat.walks import random_walks
from packager.formats.tokenizer import NO_TOKENS
from tests.chat import solvable
from tests.chat.solvable import LLAMA2, QWEN, REFUSED, SOLVED, TOKENS

Turns = tuple[Message, ...]


def said(*turns: tuple[str, str]) -> Turns:
    return tuple(Message(role=role, content=content) for role, content in turns)


def solved(template: str) -> TurnModel | Unsolved:
    with Renderer("it", TOKENS) as renderer:
        return solve_turns(lambda turns: renderer.render(template, turns), load_probes(), bos="<s>")


@pytest.mark.parametrize("template", SOLVED.values(), ids=SOLVED)
def test_a_model_builds_the_template_s_prompts_on_conversations_it_never_saw(template: str) -> None:
    model = solved(template)
    assert isinstance(model, TurnModel), model
    with Renderer("it", TOKENS) as renderer:
        held = [walk for walk in random_walks(200, 99, alternate=True) if model.holds_for(walk.messages)]
        assert len(held) > 50
        for walk in held:
            assert renderer.render(template, walk.messages) == model.assemble(walk.messages)


@pytest.mark.parametrize(("template", "code"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_such_model_is_refused_with_its_code(template: str, code: str) -> None:
    found = solved(template)
    assert isinstance(found, Unsolved)
    assert found.code == code
    assert found.reason
    assert found.conversation


def test_the_pieces_of_a_model() -> None:
    model = solved(LLAMA2)
    assert isinstance(model, TurnModel)
    assert model.bos == "<s>"
    between = model.edge("system", "user")
    assert between is not None
    assert between.text == "\n<</SYS>>\n\n"
    again = model.edge("assistant", "user")
    assert again is not None
    assert (again.text, again.trims_previous, again.trims_next) == (" </s><s>[INST] ", Trim.BLANKS, Trim.BLANKS)


def test_limits_say_what_a_model_does_not_hold_for() -> None:
    model = solved(solvable.DROPS_THINKING)
    assert isinstance(model, TurnModel)
    assert model.limits == ("think",)
    thinking = said(("user", "a"), ("assistant", "<think>\nb\n</think>\n\nc"), ("user", "d"))
    assert not model.holds_for(thinking)
    assert model.holds_for(thinking[:1])


@pytest.mark.parametrize(
    ("roles", "regular"),
    [
        (("user",), True),
        (("system", "user", "assistant", "user"), True),
        (("user", "user"), False),
        (("user", "assistant"), False),
        (("user", "system", "user"), False),
        (("system",), False),
        (("assistant", "user"), False),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_which_conversations_alternate(roles: tuple[str, ...], regular: bool) -> None:
    assert alternates(said(*((role, "x") for role in roles))) is regular


TEXT = st.text(alphabet="<|>[]ab/\n #", min_size=1, max_size=8)


@settings(max_examples=25, deadline=None)
@given(texts=st.tuples(TEXT, TEXT, TEXT, TEXT, TEXT), trims=st.booleans())
def test_any_template_of_fixed_texts_is_solved(texts: tuple[str, ...], trims: bool) -> None:
    content = "(m.content | trim)" if trims else "m.content"
    opened = "{'system': a, 'user': b, 'assistant': c}[m.role]"
    literals = dict(zip("abcde", map(repr, texts), strict=True))
    template = "".join(f"{{% set {name} = {text} %}}" for name, text in literals.items())
    template += f"{{% for m in messages %}}{{{{ {opened} + {content} + d }}}}{{% endfor %}}{{{{ e }}}}"
    with Renderer("it", NO_TOKENS) as renderer:
        model = solve_turns(lambda turns: renderer.render(template, turns), load_probes(), bos="")
        assert isinstance(model, TurnModel), model
        for walk in random_walks(20, 5, alternate=True):
            prompt = renderer.render(template, walk.messages)
            assert not isinstance(prompt, RenderRefused)
            assert model.assemble(walk.messages) == prompt


def test_a_system_message_that_the_last_user_s_turn_begins_with() -> None:
    model = solved(solvable.LATE_SYSTEM)
    assert isinstance(model, TurnModel)
    assert model.moves_system
    turns = said(("system", "s"), ("user", "a "), ("assistant", "\n b"), ("user", " c"))
    assert model.assemble(turns) == "<s>[INST] a[/INST]  b</s>[INST] s\n\nc[/INST]"


def test_a_bos_that_not_every_prompt_begins_with_is_text() -> None:
    model = solved(solvable.SYSTEM_BEFORE_BOS)
    assert isinstance(model, TurnModel)
    assert model.bos == ""
    assert model.assemble(said(("system", "s"), ("user", "a"))) == "s <s><user>a<assistant>"


def test_qwen_s_default_system_prompt_is_what_an_absent_one_writes() -> None:
    model = solved(QWEN)
    assert isinstance(model, TurnModel)
    first = model.edge("start", "user")
    assert first is not None
    assert "You are Qwen" in first.text
    assert model.empty_system is None
