"""Templates written anew from their models: the originals' prompts in jinja2, and in llama.cpp's Jinja on a real Ollama."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from packager.artifacts import Gguf, Message, RewrittenForm
from packager.chat.canonical import HEADER_CHARACTERS, canonicalise
from packager.chat.probes import load_probes
from packager.chat.render import Renderer, RenderRefused, Setting
from packager.chat.rewrite import rewritten_form
from packager.chat.solve import solve_turns
from packager.chat.turn_model import TurnModel
from packager.chat.walks import random_walks
from packager.engines.ollama import OllamaServer
from packager.engines.ollama_probe import probe_model
from packager.sources.llama_cpp_tree import LlamaCppTree
from packager.weights.probe_gguf import write_probe
from packager.weights.vocabulary import vocabulary_of_folder
from tests.chat.solvable import CHATML, LAST_ANSWER, LATE_SYSTEM, REFUSED, SOLVED, TOKENS

UNSEEN = random_walks(60, 4242, alternate=True)


@contextmanager
def rewritten(template: str) -> Iterator[tuple[Renderer, TurnModel | None, RewrittenForm]]:
    probes = load_probes()
    with Renderer("it", TOKENS) as renderer:
        canonical = canonicalise(renderer, template, probes, source="it", bos_token="<s>")
        model = solve_turns(lambda turns: renderer.render(template, turns), probes, bos="<s>")
        form = rewritten_form(renderer, canonical, model, probes, source="it")
        yield renderer, model if isinstance(model, TurnModel) else None, form


@pytest.mark.parametrize("template", SOLVED.values(), ids=SOLVED)
def test_it_builds_the_original_s_prompts_on_conversations_it_never_saw(template: str) -> None:
    with rewritten(template) as (renderer, model, form):
        assert form.text is not None
        assert model is not None
        held = [walk for walk in UNSEEN if model.holds_for(walk.messages)]
        assert len(held) > 15
        for walk in held:
            assert renderer.render(form.text, walk) == renderer.render(template, walk), walk


@pytest.fixture(scope="module")
def vocabulary_probe(
    tiny: Callable[[str], Path], tree: LlamaCppTree, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Gguf]:
    vocabulary = vocabulary_of_folder(tiny("qwen2.5"), tree)
    folder = tmp_path_factory.mktemp("probes")
    return lambda text: write_probe(folder / f"{abs(hash(text))}.gguf", vocabulary, template=text, adds_bos=False)


@pytest.mark.parametrize("template", SOLVED.values(), ids=SOLVED)
def test_llama_cpp_s_jinja_builds_them_too(
    template: str, vocabulary_probe: Callable[[str], Gguf], ollama_url: str
) -> None:
    with rewritten(template) as (renderer, model, form):
        assert form.text is not None
        assert model is not None
        chats = [chat for chat in (*load_probes(), *UNSEEN) if model.holds_for(chat.messages)]
        expected = {chat: renderer.render(template, chat) for chat in chats}
    assert len(expected) > 20
    with probe_model(OllamaServer.connect(ollama_url), vocabulary_probe(form.text)) as engine:
        for chat, text in expected.items():
            assert engine.render(chat) == text, chat


def test_without_the_header_of_an_answer_it_ends_as_the_original_does() -> None:
    turns = (Message(role="user", content="a"), Message(role="assistant", content="b"))
    told = Setting(generation_prompt=False)
    for template in (CHATML, LATE_SYSTEM):
        with rewritten(template) as (renderer, _, form):
            assert form.text is not None
            for messages in (turns, turns[:1]):
                assert renderer.render(form.text, messages, told) == renderer.render(template, messages, told)


@pytest.mark.parametrize(
    "roles",
    [("user", "user"), ("assistant", "user"), ("user", "system", "user"), ("user", "assistant"), ("tool",)],
    ids="-".join,
)
def test_what_the_model_says_nothing_about_is_refused(roles: tuple[str, ...]) -> None:
    with rewritten(CHATML) as (renderer, _, form):
        assert form.text is not None
        found = renderer.render(form.text, tuple(Message(role=role, content="x") for role in roles))
    assert isinstance(found, RenderRefused)
    assert "text only" in found.message


def test_an_answer_at_the_end_is_refused_where_it_is_written_otherwise() -> None:
    turns = (Message(role="user", content="a"), Message(role="assistant", content="b"))
    with rewritten(LAST_ANSWER) as (renderer, _, form):
        assert form.text is not None
        assert isinstance(renderer.render(form.text, turns, Setting(generation_prompt=False)), RenderRefused)


def test_the_header_keeps_ollama_from_taking_it_for_another_template() -> None:
    with rewritten(CHATML) as (_, _, form):
        assert form.text is not None
        assert form.text.index("-#}") > HEADER_CHARACTERS
        assert not any(word in form.text for word in ("tools", "tool_call", "<think>"))


def test_why_there_is_none() -> None:
    template, code = REFUSED["rounds are numbered"]
    with rewritten(template) as (_, model, form):
        assert model is None
        assert (form.text, form.code) == (None, code)
        assert form.reason.startswith("conversation ")
