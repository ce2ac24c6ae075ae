"""The exact commands that serve the merged checkpoint with the canonical template on other engines.

Source: vLLM 0.33 `vllm serve --help`; LMDeploy 0.18 `lmdeploy serve api_server --help`.
"""

from __future__ import annotations

import shlex

CHECKPOINT = "hf"  # where `packager merge BASE ADAPTER -o hf` puts the checkpoint that these engines read
TEMPLATE_FILE = "chat_template.jinja"
GGUF_TEMPLATE_FILE = "chat_template.gguf.jinja"  # only where llama.cpp needs another text than the rest
LMDEPLOY_FILE = "lmdeploy.json"
GO_FILE = "ollama.gotmpl"
COMMANDS_FILE = "serve.txt"


def prepare_command(base: str, adapters: tuple[str, ...]) -> str:
    """Give the command that makes the checkpoint the other two commands name, with the adapters in order."""
    more = [word for adapter in adapters[1:] for word in ("--adapter", adapter)]
    return shlex.join(["packager", "merge", base, *adapters[:1], *more, "-o", CHECKPOINT])


def vllm_command(architecture: str) -> str:
    """Give vLLM's command; port 8000.

    Contents are passed as strings, which every template takes. Mistral's repositories need `--tokenizer-mode hf`, or vLLM
    uses a tokenizer that has no Jinja.
    """
    parts = ["vllm", "serve", CHECKPOINT, "--chat-template", TEMPLATE_FILE, "--chat-template-content-format", "string"]
    if architecture.startswith(("Mistral", "Mixtral")):
        parts += ["--tokenizer-mode", "hf"]
    return shlex.join(parts)


def lmdeploy_command(*, has_json: bool) -> str:
    """Give LMDeploy's command; port 23333.

    The template is always named: a folder whose path contains, say, `llama2` gets a built-in template otherwise.
    """
    template = LMDEPLOY_FILE if has_json else "hf"
    return shlex.join(["lmdeploy", "serve", "api_server", CHECKPOINT, "--chat-template", template])
