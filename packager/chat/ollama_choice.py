"""Which of the templates that a model could have an Ollama will use, foretold from its version and the model alone.

What cannot be foretold is detection: while it creates a model without a TEMPLATE, Ollama compares the GGUF's template with
those it knows, and adds the Go template of one that is nearer than a Levenshtein distance of 100. The header of a canonical
template is longer than that; another template has to be tried on the server itself (`packager template check`).

Source: ollama 0.34.0, server/images.go (`selectedTemplateSource`, `shouldPreferChatTemplate`, `chatTemplateCapabilities`,
`goTemplateCapabilities`), server/create.go (`createModel`), server/routes.go (`shouldUseHarmony`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from packager.engines.ollama_server import NATIVE_TEMPLATES, at_least

# Architectures for which `create` sets a built-in renderer, whatever the model brings.
_FORCED_RENDERERS = {"Gemma4": "gemma4", "Laguna": "laguna", "NemotronH": "nemotron-3-nano"}
_HARMONY = "GptOss"
_HARMONY_TAGS = ("<|start|>", "<|end|>")
_ROUND_TRIP = (
    "tool_response", "tool_results", "role'] == 'tool'", "role'] == \"tool\"", "role\"] == 'tool'", 'role"] == "tool"',
    "message.role == 'tool'", 'message.role == "tool"', "ipython",
)  # fmt: skip
_GO_ROUND_TRIP = ('eq .Role "tool"', "tool_response", "TOOL_RESULTS")


class PromptSource(StrEnum):
    """Where an Ollama takes a prompt from."""

    JINJA = "the GGUF's chat template"
    GO = "the Go TEMPLATE"
    RENDERER = "a built-in renderer"
    NONE = "nothing: contents without a template"


@dataclass(frozen=True, kw_only=True)
class OllamaChoice:
    """What an Ollama will use; `code` is a reason code of docs/templates.md where a template is bypassed, else empty."""

    source: PromptSource
    code: str = ""
    reason: str = ""


def predict_choice(version: str, *, architecture: str, jinja: str | None, go: str | None = None) -> OllamaChoice:
    """Foretell what an Ollama will use for a model, with `OLLAMA_GO_TEMPLATE` unset.

    Args:
        version: The server's version, for example `0.34.0`.
        architecture: config.json's, for example `Qwen2ForCausalLM`.
        jinja: The GGUF's chat template, None for none.
        go: The Modelfile's TEMPLATE, None for none.
    """
    renderer = _renderer(architecture, go)
    if renderer:
        reason = f"Ollama uses its renderer {renderer} for {architecture} and ignores the model's chat template"
        return OllamaChoice(source=PromptSource.RENDERER, code="RENDERER_FORCED", reason=reason)
    runs_jinja = at_least(version, NATIVE_TEMPLATES)
    if go is not None and not (runs_jinja and jinja is not None and _prefers(jinja, go)):
        return OllamaChoice(source=PromptSource.GO)
    if jinja is not None and runs_jinja:
        if go is None:
            return OllamaChoice(source=PromptSource.JINJA)
        reason = "the GGUF's chat template can do more than the TEMPLATE (tools or thinking), so Ollama uses that"
        return OllamaChoice(source=PromptSource.JINJA, code="PREFER_JINJA", reason=reason)
    reason = "there is neither a chat template in the GGUF nor a TEMPLATE"
    if jinja is not None:
        reason = f"Ollama {version} is older than 0.30 and does not run a GGUF's chat template: it needs a TEMPLATE"
    return OllamaChoice(source=PromptSource.NONE, code="NO_TEMPLATE", reason=reason)


def _renderer(architecture: str, go: str | None) -> str:
    """Give the renderer that Ollama forces on a model, empty when it forces none."""
    if go is not None and architecture.startswith(_HARMONY) and all(tag in go for tag in _HARMONY_TAGS):
        return "harmony"
    return next((name for prefix, name in _FORCED_RENDERERS.items() if architecture.startswith(prefix)), "")


def _prefers(jinja: str, go: str) -> bool:
    mine, other = _capabilities(jinja), _go_capabilities(go)
    round_trip, other_round_trip = _has_round_trip(jinja), _has_go_round_trip(go)
    if len(mine) > len(other):
        return round_trip or not other_round_trip
    return mine == other and "tools" in mine and round_trip and not other_round_trip


def _capabilities(jinja: str) -> set[str]:
    found = set()
    if "tools" in jinja or "tool_call" in jinja:
        found.add("tools")
    splits = any(f"content.split({quote}</think>{quote})" in jinja for quote in "'\"")
    if ("<think>" in jinja and "</think>" in jinja) or (
        splits and "reasoning_content" not in jinja and "<SPECIAL_12>" not in jinja
    ):
        found.add("thinking")
    return found


def _go_capabilities(go: str) -> set[str]:
    names = {".Tools": "tools", ".Suffix": "insert", ".Thinking": "thinking"}
    return {name for variable, name in names.items() if variable in go}


def _has_round_trip(jinja: str) -> bool:
    calls = "tool_calls" in jinja or "assistant_tool_call" in jinja
    return calls and any(text in jinja for text in _ROUND_TRIP)


def _has_go_round_trip(go: str) -> bool:
    return ".Tools" in go and ".ToolCalls" in go and any(text in go for text in _GO_ROUND_TRIP)
