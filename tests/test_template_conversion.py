"""`packager template convert` as a user runs it: the files of each target, and what the real engine makes of them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from packager.artifacts import Outcome
from packager.chat.probes import every_probe
from packager.codec import decode
from packager.template_conversion import Conversion
from tests.chat.samples import CHATML, CHATML_WITH_DEFAULT
from tests.run_packager import Finished, error_lines, run_packager
from tests.test_template_gate import NO_TOOLS

COMMON = {".packager"}
NUMBERED = CHATML.replace("+ m['content']", "+ loop.index|string + m['content']")


def convert(base: Path, output: Path, *arguments: object, ollama: str = "127.0.0.1:9") -> Finished:
    return run_packager("template", "convert", base, "-o", output, *arguments, ollama=ollama)


def converted(finished: Finished) -> Conversion:
    return decode(Conversion, json.loads(finished.out))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - COMMON


@pytest.fixture
def no_engines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither vLLM nor LMDeploy is anywhere."""
    for variable, value in (("PATH", str(tmp_path)), ("PACKAGER_CACHE", str(tmp_path))):
        monkeypatch.setenv(variable, value)
    for variable in ("PACKAGER_VLLM", "PACKAGER_LMDEPLOY"):
        monkeypatch.delenv(variable, raising=False)


def test_to_ollama_writes_both_forms_and_proves_them_on_both_paths(
    tiny: Callable[[str], Path], ollama_url: str, tmp_path: Path
) -> None:
    more = ("--walks", 2, "--seed", 7)
    finished = convert(tiny("llama3.1"), tmp_path / "out", "--to", "ollama", *more, "--json", ollama=ollama_url)
    assert finished.code == 0, finished.err
    assert {"chat_template.jinja", "ollama.gotmpl"} == names(tmp_path / "out")
    done = converted(finished)
    assert {path.name for path in done.files} == names(tmp_path / "out")
    assert [row.engine for row in done.matrix.rows] == ["ollama", "ollama-go"]
    assert [len(row.cells) for row in done.matrix.rows] == [len(every_probe()) + 2] * 2
    assert done.matrix.conversations[-1].id == "walk-7-1"
    assert {cell.outcome for row in done.matrix.rows for cell in row.cells if cell.group == "CORE"} == {Outcome.PASSED}


def test_to_ollama_writes_what_a_gguf_gets_instead_of_a_template_that_llama_cpp_cannot_run(
    tiny: Callable[[str], Path], ollama_url: str, tmp_path: Path
) -> None:
    (tmp_path / "nemo.jinja").write_text(NO_TOOLS)
    asked = ("--to", "ollama", "--template", tmp_path / "nemo.jinja")
    finished = convert(tiny("qwen2.5"), tmp_path / "out", *asked, ollama=ollama_url)
    assert finished.code == 0, finished.err
    assert names(tmp_path / "out") == {"chat_template.jinja", "chat_template.gguf.jinja", "ollama.gotmpl"}
    assert "written anew, without tools" in finished.out


def test_to_lmdeploy_writes_the_json_and_proves_it(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"messages": [{"role": "user", "content": "Mine?"}]}) + "\n")
    finished = convert(tiny("qwen2.5"), tmp_path / "out", "--to", "lmdeploy", "--conversations", data)
    assert finished.code == 0, finished.err
    assert names(tmp_path / "out") == {"lmdeploy.json", "serve.txt"}
    assert "every CORE conversation is equal on lmdeploy" in finished.out
    assert ["line-1", "USER", "equal"] in [line.split() for line in finished.out.splitlines()]
    served = (tmp_path / "out" / "serve.txt").read_text()
    assert "--chat-template lmdeploy.json" in served
    assert "vllm serve" not in served


def test_to_vllm_writes_the_template_and_its_command_and_proves_it(
    tiny: Callable[[str], Path], tiny_lora: Callable[[str], Path], tmp_path: Path
) -> None:
    finished = convert(tiny("qwen2.5"), tmp_path / "out", tiny_lora("qwen2.5"), "--to", "vllm", "--json")
    assert finished.code == 0, finished.err
    assert names(tmp_path / "out") == {"chat_template.jinja", "serve.txt"}
    commands = [line for line in (tmp_path / "out" / "serve.txt").read_text().splitlines() if line[:1] not in ("", "#")]
    assert [command.partition(" ")[0] for command in commands] == ["packager", "vllm"]
    assert "chat_template.jinja" in shlex.split(commands[1])
    (row,) = converted(finished).matrix.rows
    assert row.engine == "vllm"
    unequal = {(cell.outcome, cell.code) for cell in row.cells if cell.outcome is not Outcome.PASSED}
    assert unequal == {(Outcome.NOT_CHECKED, "IGNORED")}  # reasoning, which Qwen2.5's template leaves out


@pytest.mark.usefixtures("no_engines")
def test_what_is_not_installed_is_told_with_its_command_and_is_no_failure(
    tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    finished = convert(tiny("qwen2.5"), tmp_path / "out")
    assert finished.code == 0, finished.err
    assert names(tmp_path / "out") == {"chat_template.jinja", "lmdeploy.json", "ollama.gotmpl", "serve.txt"}
    assert finished.out.splitlines()[-1].startswith("not checked; not checked: ollama, ollama-go, lmdeploy, vllm")
    for engine in ("vllm", "lmdeploy"):
        assert f"{engine}: not checked: {engine} is not installed (python -m venv" in finished.out
        assert f"pip install {engine}" in finished.out
    assert "ollama serve" in finished.out
    assert "equal" not in finished.out


def test_a_bos_that_lmdeploy_adds_is_exit_code_5_with_the_files_there(
    tiny: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACKAGER_VLLM", str(tmp_path))  # nobody is there
    (tmp_path / "own.jinja").write_text(CHATML_WITH_DEFAULT)
    arguments = ("--template", tmp_path / "own.jinja", "--json")
    finished = convert(tiny("llama3.1"), tmp_path / "out", *arguments)
    assert finished.code == 5, finished.err
    assert names(tmp_path / "out") == {"chat_template.jinja", "ollama.gotmpl", "serve.txt"}
    done = converted(finished)
    assert done.matrix.differing == ("lmdeploy",)
    assert {cell.code for row in done.matrix.rows for cell in row.cells} == {"BOS_DUP"}
    assert [(form.file, form.code) for form in done.missing] == [("lmdeploy.json", "BOS_DUP")]


def test_a_json_that_lmdeploy_has_not_is_exit_code_12_where_it_was_asked_for(
    tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    finished = convert(tiny("qwen3"), tmp_path / "out", "--to", "lmdeploy")
    assert finished.code == 12
    assert names(tmp_path / "out") == {"serve.txt"}
    assert "every CORE conversation is equal on lmdeploy" in finished.out  # with the template itself
    error, hint = error_lines(finished)
    assert "there is no lmdeploy.json (NO_DEFAULT_SYS): " in error
    assert "--chat-template hf" in hint
    served = (tmp_path / "out" / "serve.txt").read_text()
    assert "# There is no lmdeploy.json (NO_DEFAULT_SYS)" in served
    assert served.count("--chat-template hf") == 1


def test_a_template_without_a_go_form_is_exit_code_12_where_it_was_asked_for(
    tiny: Callable[[str], Path], ollama_url: str, tmp_path: Path
) -> None:
    (tmp_path / "numbered.jinja").write_text(NUMBERED)
    arguments = ("--to", "ollama", "--template", tmp_path / "numbered.jinja")
    finished = convert(tiny("qwen2.5"), tmp_path / "out", *arguments, ollama=ollama_url)
    assert finished.code == 12
    assert names(tmp_path / "out") == {"chat_template.jinja", "serve.txt"}
    error, hint = error_lines(finished)
    assert "there is no ollama.gotmpl (POSITION): " in error
    assert "Ollama 0.30 and later needs none" in hint
    assert "every CORE conversation is equal on ollama; not checked: ollama-go" in finished.out
    assert (tmp_path / "out" / "serve.txt").read_text().startswith("# There is no ollama.gotmpl")


@pytest.mark.usefixtures("no_engines")
def test_an_earlier_target_stays_where_it_is(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    for target in ("vllm", "lmdeploy"):
        finished = convert(tiny("qwen2.5"), tmp_path / "out", "--to", target, "-q")
        assert finished.code == 0, finished.err
    assert "chat_template.jinja is from an earlier run" in finished.err
    assert names(tmp_path / "out") == {"chat_template.jinja", "lmdeploy.json", "serve.txt"}
