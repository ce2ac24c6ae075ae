"""What an Ollama will use, foretold, against what a real one does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from packager.artifacts import Conversation, Message, Quant
from packager.chat.ollama_choice import PromptSource, predict_choice
from packager.engines.ollama import OllamaServer
from packager.engines.ollama_probe import probe_model
from packager.sources.llama_cpp_tree import LlamaCppTree
from packager.weights.probe_gguf import write_probe
from packager.weights.vocabulary import vocabulary_of_folder

HI = Conversation(id="hi", group="CORE", messages=(Message(role="user", content="hi"),))
PLAIN = "JINJA{% for m in messages %}[{{ m.content }}]{% endfor %}"
WITH_TOOLS = PLAIN + "{% if tools %}{{ tools }}{% endif %}"
ROUND_TRIP = WITH_TOOLS + "{% if messages[0].tool_calls %}<tool_response>{% endif %}"
THINKS = PLAIN + "{% if false %}<think></think>{% endif %}"
SPLITS = PLAIN + "{% for m in messages %}{% set c = m.content.split('</think>') %}{% endfor %}"
GO = "GO{{ range .Messages }}[{{ .Content }}]{{ end }}"
GO_TOOLS = GO + "{{ if .Tools }}{{ .Tools }}{{ end }}"
GO_ROUND_TRIP = (
    GO_TOOLS + '{{ range .Messages }}{{ if .ToolCalls }}x{{ end }}{{ if eq .Role "tool" }}y{{ end }}{{ end }}'
)
JINJA, TEMPLATE = PromptSource.JINJA, PromptSource.GO


@pytest.mark.parametrize(
    ("jinja", "go", "source", "code"),
    [
        (PLAIN, None, JINJA, ""),
        (None, GO, TEMPLATE, ""),
        (PLAIN, GO, TEMPLATE, ""),
        (WITH_TOOLS, GO, JINJA, "PREFER_JINJA"),
        (THINKS, GO, JINJA, "PREFER_JINJA"),
        (SPLITS, GO, JINJA, "PREFER_JINJA"),
        (WITH_TOOLS, GO_TOOLS, TEMPLATE, ""),
        (ROUND_TRIP, GO_TOOLS, JINJA, "PREFER_JINJA"),
        (ROUND_TRIP, GO_ROUND_TRIP, TEMPLATE, ""),
        (PLAIN, GO_TOOLS, TEMPLATE, ""),
    ],
    ids=[
        "jinja alone", "go alone", "both plain", "tools", "thinking", "thinking that is split off", "tools in both",
        "only the jinja takes results", "both take results", "tools in go alone",
    ],
)  # fmt: skip
def test_the_server_at_hand_does_what_was_foretold(
    jinja: str | None,
    go: str | None,
    source: PromptSource,
    code: str,
    tiny: Callable[[str], Path],
    tree: LlamaCppTree,
    ollama_url: str,
    tmp_path: Path,
) -> None:
    server = OllamaServer.connect(ollama_url)
    choice = predict_choice(server.version, architecture="Qwen2ForCausalLM", jinja=jinja, go=go)
    assert (choice.source, choice.code) == (source, code)
    assert bool(choice.reason) == bool(code)
    probe = write_probe(tmp_path / "p.gguf", vocabulary_of_folder(tiny("qwen2.5"), tree), template=jinja)
    assert probe.quant is Quant.Q8_0
    with probe_model(server, probe, template=go) as engine:
        prompt = engine.render(HI)
    assert prompt == {JINJA: "JINJA[hi]", TEMPLATE: "GO[hi]"}[choice.source]


@pytest.mark.parametrize(
    ("version", "architecture", "jinja", "go", "source", "code"),
    [
        ("0.29.9", "Qwen2ForCausalLM", PLAIN, None, PromptSource.NONE, "NO_TEMPLATE"),
        ("0.29.9", "Qwen2ForCausalLM", WITH_TOOLS, GO, TEMPLATE, ""),
        ("0.34.0", "Gemma4ForConditionalGeneration", PLAIN, GO, PromptSource.RENDERER, "RENDERER_FORCED"),
        ("0.34.0", "NemotronHForCausalLM", PLAIN, None, PromptSource.RENDERER, "RENDERER_FORCED"),
        ("0.34.0", "Gemma3ForCausalLM", PLAIN, None, JINJA, ""),
        ("0.34.0", "GptOssForCausalLM", PLAIN, "<|start|>{{ .Prompt }}<|end|>", PromptSource.RENDERER, "RENDERER_FORCED"),
        ("0.34.0", "GptOssForCausalLM", PLAIN, None, JINJA, ""),
        ("0.34.0", "Qwen2ForCausalLM", None, None, PromptSource.NONE, "NO_TEMPLATE"),
        ("0.0.0", "Qwen2ForCausalLM", PLAIN, None, JINJA, ""),
    ],
    ids=["old", "old with go", "gemma4", "nemotron", "gemma3", "harmony", "gpt-oss", "nothing", "a development build"],
)  # fmt: skip
def test_what_needs_another_server_or_model(
    version: str, architecture: str, jinja: str | None, go: str | None, source: PromptSource, code: str
) -> None:
    choice = predict_choice(version, architecture=architecture, jinja=jinja, go=go)
    assert (choice.source, choice.code) == (source, code)
