"""Conversations on the way into a real Ollama, and what it makes of declared functions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from packager.artifacts import Conversation, Message, ToolCall
from packager.chat.probes import every_probe
from packager.codec import JsonObject
from packager.engines.engine import NotSupported
from packager.engines.ollama import OllamaEngine, OllamaServer
from packager.engines.ollama_messages import chat_messages, rewritten_tool
from packager.engines.ollama_probe import probe_model
from tests.ollama_server import HEADER, write_gguf

SHOWS_TOOLS = "{% if tools %}{% for t in tools %}{{ t | tojson }}{% endfor %}{% endif %}{{ messages[-1].content }}"
TOOLS: dict[str, dict[str, object]] = {
    "usual": {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
    "unknown keys": {
        "type": "object",
        "additionalProperties": False,
        "properties": {"a": {"type": "string", "default": 1}},
    },
    "nested": {
        "properties": {
            "a": {"description": "d", "type": "array", "items": {"minimum": 1, "type": "integer"}},
            "b": {"properties": {"c": {"enum": ["x", 1, None], "type": ["string", "null"]}}, "type": "object"},
            "d": {"anyOf": [{"description": "e", "type": "string"}, {"type": "null"}]},
        },
        "type": "object",
    },
    "marks": {"type": "object", "properties": {"<é&>": {"type": "string", "description": '\u4e2d "q" \\ 5 < 6'}}},
}


@pytest.fixture(scope="module")
def engine(ollama_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OllamaEngine]:
    gguf = write_gguf(tmp_path_factory.mktemp("tools") / "tools.gguf", HEADER + SHOWS_TOOLS)
    with probe_model(OllamaServer.connect(ollama_url), gguf) as made:
        yield made


TOOLS |= {
    "empty things": {"type": "object", "properties": {}, "required": [], "items": {}, "$defs": {}},
    "no properties": {"type": "object"},
    "no type": {
        "properties": {"a": {"type": [], "enum": [], "anyOf": [], "description": "", "required": [], "items": None}}
    },
    "one type in a list": {"type": "object", "properties": {"a": {"type": ["string"]}}},
    "sorted inside": {
        "$defs": {"z": {"y": 1.0, "x": 0.5}, "a": []},
        "type": "object",
        "properties": {"a": {"items": {"type": "array", "items": {"b": 1, "a": 2}}, "enum": [{"d": 1, "c": 2.0}, 3.0]}},
    },
}


def declared(parameters: dict[str, object]) -> JsonObject:
    function = {"description": "d", "strict": True, "name": "f", "parameters": parameters}
    return JsonObject.of({"function": function, "type": "function"})


@pytest.mark.parametrize("parameters", TOOLS.values(), ids=TOOLS)
def test_a_declared_function_is_what_ollama_makes_of_it(parameters: dict[str, object], engine: OllamaEngine) -> None:
    tool = declared(parameters)
    asked = Conversation(id="c", group="TOOLS", messages=(Message(role="user", content="!"),), tools=(tool,))
    assert engine.render(asked) == f"{rewritten_tool(tool).text}!"
    assert rewritten_tool(tool) != tool
    assert rewritten_tool(rewritten_tool(tool)) == rewritten_tool(tool)


@pytest.mark.parametrize("function", [{"name": "f"}, {}, {"name": "f", "parameters": None}], ids=repr)
def test_a_function_without_parameters(function: dict[str, object], engine: OllamaEngine) -> None:
    tool = JsonObject.of({"type": "function", "function": function})
    asked = Conversation(id="c", group="TOOLS", messages=(Message(role="user", content="!"),), tools=(tool,))
    assert engine.render(asked) == f"{rewritten_tool(tool).text}!"


def test_a_declaration_that_does_not_fit_its_types_is_one_cell(engine: OllamaEngine) -> None:
    asked = Conversation(
        id="c", group="USER", messages=(Message(role="user", content="!"),), tools=(declared({"type": 5}),)
    )
    found = engine.render(asked)
    assert isinstance(found, NotSupported)
    assert found.code == "REFUSED"
    assert "unmarshal" in found.detail


@pytest.mark.parametrize("tool", [{}, {"function": []}, {"function": {"parameters": {"properties": 1}}}], ids=repr)
def test_what_is_no_declaration_is_no_traceback(tool: dict[str, object]) -> None:
    assert isinstance(rewritten_tool(JsonObject.of(tool)), JsonObject)


def test_a_message_has_the_keys_of_ollama(engine: OllamaEngine) -> None:
    call = ToolCall(name="f", arguments=JsonObject('{"a": "é"}'), id="7")
    turns = (
        Message(role="user", content="a"),
        Message(role="assistant", content="", thinking="Hm.", tool_calls=(call,)),
        Message(role="tool", content="r", tool_name="f", tool_call_id="7"),
    )
    calls = [{"id": "7", "function": {"name": "f", "arguments": {"a": "é"}}}]
    assert chat_messages(turns) == [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "", "thinking": "Hm.", "tool_calls": calls},
        {"role": "tool", "content": "r", "tool_name": "f", "tool_call_id": "7"},
    ]
    assert engine.render(Conversation(id="c", group="TOOLS", messages=turns)) == "r"


def test_a_model_without_tools_says_so(ollama_url: str, tmp_path: Path) -> None:
    gguf = write_gguf(tmp_path / "none.gguf", HEADER + "{{ messages[-1].content }}")
    with probe_model(OllamaServer.connect(ollama_url), gguf) as made:
        found = {probe.id: made.render(probe) for probe in every_probe() if probe.tools}
        plain = made.render(Conversation(id="c", group="USER", messages=(Message(role="user", content="a"),)))
    assert plain == "a"
    assert {getattr(answer, "code", answer) for answer in found.values()} == {"NO_TOOLS"}
