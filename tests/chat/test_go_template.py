"""Go forms on the Go path of a real Ollama, against the Jinja templates they were learned from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from packager.artifacts import Gguf
from packager.chat.go_template import go_form, go_template
from packager.chat.probes import load_probes
from packager.chat.render import Renderer
from packager.chat.solve import solve_turns
from packager.chat.turn_model import TurnModel
from packager.chat.walks import random_walks
from packager.engines.ollama import OllamaServer
from packager.engines.ollama_probe import probe_model
from packager.sources.llama_cpp_tree import LlamaCppTree
from packager.weights.probe_gguf import write_probe
from packager.weights.vocabulary import vocabulary_of_folder
from tests.chat.solvable import DROPS_THINKING, LLAMA3, REFUSED, SOLVED, TOKENS


@pytest.fixture(scope="module")
def probe(tiny: Callable[[str], Path], tree: LlamaCppTree, tmp_path_factory: pytest.TempPathFactory) -> Gguf:
    vocabulary = vocabulary_of_folder(tiny("qwen2.5"), tree)
    return write_probe(tmp_path_factory.mktemp("probe") / "bare.gguf", vocabulary, template=None)


@pytest.mark.parametrize("template", SOLVED.values(), ids=SOLVED)
def test_ollama_s_go_path_builds_the_template_s_prompts(template: str, probe: Gguf, ollama_url: str) -> None:
    with Renderer("it", TOKENS) as renderer:
        model = solve_turns(lambda turns: renderer.render(template, turns), load_probes(), bos="<s>")
        assert isinstance(model, TurnModel)
        chats = (*load_probes(), *random_walks(60, 77, alternate=True))
        expected = {chat: renderer.render(template, chat.messages) for chat in chats if model.holds_for(chat.messages)}
    assert len(expected) > 20
    with probe_model(OllamaServer.connect(ollama_url), probe, template=go_template(model)) as engine:
        for chat, text in expected.items():
            assert engine.render(chat) == str(text).removeprefix(model.bos), chat


def test_a_form_is_plain_ascii_that_a_modelfile_can_carry() -> None:
    for template in SOLVED.values():
        with Renderer("it", TOKENS) as renderer:
            form = go_form(lambda turns, t=template: renderer.render(t, turns), load_probes(), bos="<s>")  # type: ignore[misc]
        assert form.text is not None
        assert form.text.isascii()
        assert '"""' not in form.text


def test_bos_is_left_to_ollama() -> None:
    with Renderer("it", TOKENS) as renderer:
        form = go_form(lambda turns: renderer.render(LLAMA3, turns), load_probes(), bos="<s>")
    assert form.text is not None
    assert "<s>" not in form.text


def test_why_there_is_no_form_and_what_a_form_does_not_hold_for() -> None:
    with Renderer("it", TOKENS) as renderer:
        template, code = REFUSED["rounds are numbered"]
        none = go_form(lambda turns: renderer.render(template, turns), load_probes(), bos="<s>")
        limited = go_form(lambda turns: renderer.render(DROPS_THINKING, turns), load_probes(), bos="<s>")
    assert (none.text, none.code) == (None, code)
    assert none.reason.startswith("conversation ")
    assert limited.limits == ("answers in the history that have </think> in them",)
