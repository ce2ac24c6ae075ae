"""A build stops before its long part at an Ollama that would not build the prompts of training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from packager.artifacts import Quant
from packager.engines.ollama import OllamaServer
from packager.errors import Unsupported
from packager.events import silent
from packager.formats.gguf import read_gguf
from packager.plan import BuildRequest, make_plan
from packager.sources.llama_cpp_tree import LlamaCppTree
from packager.template_gate import template_for_ollama
from packager.workspace import Workspace
from tests.run_packager import error_lines, run_packager

# Mistral-Nemo's way to find the messages that are not about tools: jinja2 has this test, llama.cpp has not.
NO_TOOLS = (
    "{% for m in messages | selectattr('tool_calls', 'undefined') %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


# The same, and its rounds are numbered: there is no form of it to write anew.
NUMBERED = NO_TOOLS.replace("m['content']", "m['content'] + loop.index | string")


def test_a_template_that_ollama_cannot_run(tiny: Callable[[str], Path], ollama_url: str, tmp_path: Path) -> None:
    template, out = tmp_path / "nemo.jinja", tmp_path / "out"
    template.write_text(NUMBERED)
    build = ("build", tiny("qwen2.5"), "-o", out, "--template", template, "--quant", "q8_0", "--no-verify")
    finished = run_packager(*build, "--name", "gate", ollama=ollama_url)
    assert finished.code == 12
    error, hint = error_lines(finished)
    assert "conversation user (TEMPLATE_ERROR)" in error
    assert "written anew for it there is none (POSITION" in error
    assert "--no-register" in hint
    assert not list(out.glob("*.gguf"))
    assert not OllamaServer.connect(ollama_url).exists("gate:q8_0")
    assert run_packager(*build, "--no-register").code == 0
    finished = run_packager("register", out, "--name", "gate", ollama=ollama_url)
    assert finished.code == 12
    error, hint = error_lines(finished)
    assert "conversation user (TEMPLATE_ERROR)" in error
    assert "packager build" in hint
    assert not OllamaServer.connect(ollama_url).exists("gate:q8_0")


def test_a_template_that_is_written_anew_for_ollama(
    tiny: Callable[[str], Path], ollama_url: str, tmp_path: Path
) -> None:
    template, out, base = tmp_path / "nemo.jinja", tmp_path / "out", tiny("qwen2.5")
    template.write_text(NO_TOOLS)
    options = ("--template", template, "--quant", "f16", "--name", "anew")
    finished = run_packager("build", base, "-o", out, *options, ollama=ollama_url)
    assert finished.code == 0, finished.err
    assert "written anew, and it takes no tools" in finished.err
    (path,) = out.glob("*.gguf")
    text = str(read_gguf(path).value("tokenizer.chat_template"))
    assert "selectattr" not in text
    assert "llama.cpp cannot run the original" in text
    assert text == (out / "chat_template.gguf.jinja").read_text()
    assert "selectattr" in (out / "chat_template.jinja").read_text()
    again = run_packager("build", base, "-o", out, *options, ollama=ollama_url)
    assert again.code == 0, again.err
    assert "quantize: done before, still valid" in again.err
    assert run_packager("verify", out, base, "--template", template, "--name", "anew", ollama=ollama_url).code == 0
    checked = run_packager("template", "check", base, "--template", template, "--engine", "ollama", ollama=ollama_url)
    assert checked.code == 0, checked.err
    assert "written anew, without tools" in checked.out


def test_an_architecture_with_a_renderer_of_ollama_s_own(
    tiny: Callable[[str], Path], tree: LlamaCppTree, ollama_url: str, tmp_path: Path
) -> None:
    plan = make_plan(
        BuildRequest(base=tiny("qwen2.5"), adapter=None, output=tmp_path / "out", quants=(Quant.Q8_0,), name="gate")
    )
    forced = replace(plan, base=replace(plan.base, architecture="Gemma4ForConditionalGeneration"))
    with Workspace(tmp_path / "out", emit=silent) as workspace:
        server = OllamaServer.connect(ollama_url)
        template_for_ollama(plan, (), server, tree, workspace, silent)
        with pytest.raises(Unsupported, match="RENDERER_FORCED"):
            template_for_ollama(forced, (), server, tree, workspace, silent)
