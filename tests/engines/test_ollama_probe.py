"""Probes in a real Ollama."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from packager.artifacts import Conversation, Gguf, Message
from packager.engines.ollama import OllamaServer
from packager.engines.ollama_probe import PREFIX, probe_model
from packager.errors import OllamaFailed
from packager.sources.llama_cpp_tree import LlamaCppTree
from packager.weights.probe_gguf import write_probe
from packager.weights.vocabulary import vocabulary_of_folder

TURNS = (Message(role="system", content="S"), Message(role="user", content="Hi"))
HELLO = Conversation(id="hello", group="CORE", messages=TURNS)
JINJA = "{#- " + "long " * 40 + "-#}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
GO = "{{ range .Messages }}({{ .Role }}) {{ .Content }}\n{{ end }}"


@pytest.fixture(scope="module")
def server(ollama_url: str) -> OllamaServer:
    return OllamaServer.connect(ollama_url)


@pytest.fixture(scope="module")
def probe(
    tiny: Callable[[str], Path], tree: LlamaCppTree, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str | None], Gguf]:
    vocabulary = vocabulary_of_folder(tiny("qwen2.5"), tree)
    folder = tmp_path_factory.mktemp("probes")
    return lambda template: write_probe(folder / f"{template is None}.gguf", vocabulary, template=template)


def names(server: OllamaServer) -> list[str]:
    return [model["name"] for model in server._api.get("/api/tags")["models"] if PREFIX in model["name"]]


@pytest.mark.parametrize(
    ("jinja", "go", "prompt", "source"),
    [(JINJA, None, "[system] S\n[user] Hi\n", "gguf"), (None, GO, "(system) S\n(user) Hi\n", "template")],
    ids=["the file's Jinja", "a Go TEMPLATE"],
)
def test_ollama_renders_and_counts_with_it(
    jinja: str | None,
    go: str | None,
    prompt: str,
    source: str,
    server: OllamaServer,
    probe: Callable[[str | None], Gguf],
    tiny: Callable[[str], Path],
) -> None:
    from transformers import AutoTokenizer

    with probe_model(server, probe(jinja), template=go) as engine:
        assert names(server) == [f"{engine.model}:latest"]
        assert server.show(engine.model).template_source == source
        assert engine.render(HELLO) == prompt
        assert engine.prompt_token_count(HELLO) == len(AutoTokenizer.from_pretrained(tiny("qwen2.5")).encode(prompt))
    assert names(server) == []


def test_nothing_stays_after_a_failure(server: OllamaServer, probe: Callable[[str | None], Gguf]) -> None:
    def broken() -> None:
        with probe_model(server, probe(None), template=GO):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    with pytest.raises(OllamaFailed), probe_model(server, probe(None), template="{{ .Nonsense"):
        pass
    assert names(server) == []
