"""`packager template` as a user runs it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from packager.chat.probes import CORE, EXT, every_probe, load_probes
from packager.codec import decode
from packager.engines.ollama import OllamaServer
from packager.formats.gguf import read_gguf
from packager.named_templates import NamedTemplate, find_template, named_templates, template_text
from packager.parity.template_matrix import TemplateMatrix
from packager.template_proofs import ShownTemplate, TemplateDifference
from tests.ollama_server import described, packaged_gguf
from tests.run_packager import error_lines, run_packager

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
HANGS = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}"
MODEL = "template-commands"


@pytest.fixture
def chatml(tmp_path: Path) -> Path:
    path = tmp_path / "chatml.jinja"
    path.write_text(CHATML)
    return path


@pytest.fixture(scope="module")
def usual(ollama_url: str) -> str:
    """SmolLM2 as everybody puts it into Ollama: the file as it is, which Ollama then gives a template of its own."""
    server = OllamaServer.connect(ollama_url)
    gguf = described(packaged_gguf())
    server.upload(gguf.path, gguf.sha256)
    server.create(MODEL, files={gguf.path.name: gguf.sha256}, parameters={})
    return MODEL


def test_check_prints_the_matrix_and_writes_it(tiny: Callable[[str], Path], ollama_url: str, tmp_path: Path) -> None:
    file = tmp_path / "matrix.json"
    engines = ("--engine", "llama.cpp", "--engine", "ollama")
    finished = run_packager("template", "check", tiny("qwen2.5"), *engines, "-o", file, ollama=ollama_url)
    assert finished.code == 0, finished.err
    lines = [line.split() for line in finished.out.splitlines()]
    assert lines[0] == ["conversation", "group", "llama.cpp", "ollama"]
    shown = {line[0]: line[1:] for line in lines[1 : 1 + len(every_probe())]}
    assert list(shown) == [probe.id for probe in every_probe()]
    assert all(shown[probe.id] == [probe.group, "equal", "equal"] for probe in load_probes())
    assert shown["tool-declared"] == ["TOOLS", "equal", "TOOLJSON"]
    assert shown["tool-round-trip"] == ["TOOLS", "equal", "equal"]
    assert shown["think-separate"] == ["THINK", "?", "IGNORED", "?", "IGNORED"]
    assert "ollama: declared tools are written as other JSON (TOOLJSON): tool-declared" in finished.out
    ignored = "the template leaves out this reasoning, so nothing is compared: think-separate, think-before-tool"
    assert finished.out.count(ignored) == 1
    assert "every CORE conversation is equal on llama.cpp, ollama" in finished.out
    matrix = decode(TemplateMatrix, json.loads(file.read_text()))
    assert [row.engine for row in matrix.rows] == ["llama.cpp", "ollama"]
    assert matrix.losses[-1].startswith("ollama: declared tools are written as other JSON")


def test_check_says_what_was_not_checked(tiny: Callable[[str], Path]) -> None:
    finished = run_packager("template", "check", tiny("qwen2.5"), "--engine", "ollama")
    assert finished.code == 5
    assert "not checked; not checked: ollama" in finished.out
    assert "no Ollama answers" in finished.out


def test_check_takes_the_users_and_random_conversations(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    turns = [{"role": "user", "content": "Cafe\u0301"}, {"role": "assistant", "content": "yes"}]
    data.write_text(json.dumps({"messages": turns}) + "\n" + json.dumps({"text": "?"}) + "\n")
    more = ("--conversations", data, "--walks", 3, "--seed", 5)
    finished = run_packager("template", "check", tiny("qwen2.5"), "--engine", "llama.cpp", *more, "--json")
    assert finished.code == 0, finished.err
    assert f"{data}: line 2 is not used" in finished.err
    matrix = decode(TemplateMatrix, json.loads(finished.out))
    cells = {cell.conversation: cell for cell in matrix.rows[0].cells}
    assert cells["line-1"].code == "NFC"
    assert [probe.id for probe in matrix.conversations][-4:] == ["line-1", "walk-5-0", "walk-5-1", "walk-5-2"]


def test_check_takes_tools_of_the_users_own(tiny: Callable[[str], Path], ollama_url: str, tmp_path: Path) -> None:
    data = tmp_path / "tools.jsonl"
    turns = [
        {"from": "human", "value": "Trains to Bern?"},
        {"from": "function_call", "value": '{"name": "trains", "arguments": {"to": "Bern"}}'},
        {"from": "observation", "value": '["9:31"]'},
        {"from": "gpt", "value": "At 9:31."},
    ]
    declared = {"name": "trains", "parameters": {"type": "object", "properties": {"to": {"type": "string"}}}}
    described = {"name": "trains", "description": "Lists trains.", "parameters": declared["parameters"]}
    entries = ({"conversations": turns, "tools": json.dumps([tool])} for tool in (declared, described))
    data.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    engines = ("--engine", "llama.cpp", "--engine", "ollama", "--conversations", data)
    finished = run_packager("template", "check", tiny("qwen3"), *engines, ollama=ollama_url)
    assert finished.code == 0, finished.err
    rows = {line.split()[0]: line.split()[1:] for line in finished.out.splitlines() if line.startswith("line-")}
    assert rows == {"line-1": ["USER", "equal", "TOOLJSON"], "line-2": ["USER", "equal", "equal"]}
    assert "ollama: declared tools are written as other JSON (TOOLJSON): tool-declared, line-1" in finished.out


def test_check_of_a_model_in_ollama_shows_the_template_it_was_given(usual: str, smollm2: Path, ollama_url: str) -> None:
    finished = run_packager("template", "check", usual, "--reference", smollm2, ollama=ollama_url)
    assert error_lines(finished)[0].startswith(f"error: {usual}: Ollama builds its prompts from a Go TEMPLATE")
    assert finished.code == 12


def test_check_of_a_gguf_file_as_it_is(smollm2: Path, ollama_url: str) -> None:
    finished = run_packager("template", "check", packaged_gguf(), "--reference", smollm2, "--json", ollama=ollama_url)
    assert finished.code == 5
    embedded, served = decode(TemplateMatrix, json.loads(finished.out)).rows[:2]
    text = {probe.id for probe in load_probes()}
    assert {cell.outcome.value for cell in embedded.cells if cell.conversation in text} == {"passed"}
    assert {cell.code for cell in embedded.cells if cell.conversation not in text} == {"IGNORED"}
    differing = {cell.conversation for cell in served.cells if cell.outcome.value == "failed"}
    failed = [cell for cell in served.cells if cell.outcome.value == "failed"]
    assert {cell.code for cell in failed if cell.conversation in text} == {"AUTODETECT"}
    assert {cell.code for cell in failed if cell.conversation not in text} == {"AUTODETECT", "NO_TOOLS"}
    assert {"user", "user-assistant-user"} <= differing  # those without a system prompt: SmolLM2's own one is lost


def test_diff_shows_where_prompts_part(tiny: Callable[[str], Path], chatml: Path) -> None:
    finished = run_packager("template", "diff", tiny("qwen2.5"), chatml)
    assert finished.code == 5
    lines = finished.out.splitlines()
    assert "-You are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\\n" in lines
    assert lines[-3].startswith("character 12: first ")
    assert lines[-2].startswith("token 1: first 8948 'system', second ")
    assert lines[-1].startswith("10 of 16 conversations differ: user, ")
    found = decode(
        TemplateDifference, json.loads(run_packager("template", "diff", tiny("qwen2.5"), chatml, "--json").out)
    )
    assert len(found.different) == 10


def test_diff_of_equal_templates(tiny: Callable[[str], Path], chatml: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jinja"
    other.write_text("{#- the same -#}" + CHATML)
    finished = run_packager("template", "diff", chatml, other, "--walks", 5)
    assert finished.code == 0
    assert finished.out.startswith("equal on 21 conversations")


def test_show_finds_a_template_wherever_it_is(
    tiny: Callable[[str], Path], chatml: Path, chat_gguf: object, ollama_url: str, tmp_path: Path
) -> None:
    original = json.loads((tiny("llama3.1") / "tokenizer_config.json").read_text())["chat_template"]
    folder = decode(ShownTemplate, json.loads(run_packager("template", "show", tiny("llama3.1"), "--json").out))
    assert (folder.text, folder.stops[0], folder.leading_bos) == (original, "<|eot_id|>", True)
    assert folder.canonical.endswith(original)
    file = run_packager("template", "show", chatml)
    assert "the file chatml.jinja" in file.out
    gguf = packaged_gguf()
    text = read_gguf(gguf).value("tokenizer.chat_template")
    assert run_packager("template", "show", gguf, "--text", "original").out.rstrip("\n") == text
    summary = run_packager("template", "show", gguf)
    assert "<|im_end|>" in summary.out
    dated = tmp_path / "dated.jinja"
    dated.write_text("Today is {{ strftime_now('%d %b %Y') }}. " + CHATML)
    assert 'fixed  strftime_now = "26 Jul 2024"' in run_packager("template", "show", dated).out


def test_show_of_a_model_in_ollama(ollama_url: str, tiny: Callable[[str], Path]) -> None:
    server = OllamaServer.connect(ollama_url)
    gguf = described(packaged_gguf())
    server.upload(gguf.path, gguf.sha256)
    server.create("gone-soon", files={gguf.path.name: gguf.sha256}, parameters={}, template="{{ .Prompt }}!")
    finished = run_packager("template", "show", "gone-soon", ollama=ollama_url)
    server.delete("gone-soon")
    assert finished.code == 12
    assert "a Go TEMPLATE" in error_lines(finished)[0]
    assert run_packager("template", "show", "gone-soon", ollama=ollama_url).code == 10


def test_list_has_every_named_template_with_its_aliases() -> None:
    shown = run_packager("template", "list").out.splitlines()
    assert len(shown) == 2 * len(named_templates())
    assert shown[0].split() == ["alpaca", "Alpaca"]
    aliases = next(line for line in shown if "llamafactory:yi" in line)
    assert aliases.strip().startswith("LLaMA-Factory 0.9.5: llamafactory:chatml llamafactory:qwen3_nothink ")
    listed = decode(tuple[NamedTemplate, ...], json.loads(run_packager("template", "list", "--json").out))
    assert listed == named_templates()


def test_a_named_template_is_shown_and_compared(tiny: Callable[[str], Path]) -> None:
    shown = run_packager("template", "show", "llamafactory:qwen")
    assert "the named template llamafactory:qwen" in shown.out
    assert "    stops  <|im_end|>" in shown.out.splitlines()
    assert "not checked" in shown.out
    plain = {probe.id for probe in load_probes() if probe.group in (CORE, EXT)}
    for name, different in (("qwen", {"empty-system"}), ("xtuner:qwen_chat", {"user", "user-assistant-user"})):
        finished = run_packager("template", "diff", name, tiny("qwen2.5"), "--json")
        assert finished.code == 5
        found = decode(TemplateDifference, json.loads(finished.out))
        assert found.one == f"the named template {name}"
        assert different <= {pair.conversation for pair in found.different} & plain
        assert ("user" in different) == ("user" in {pair.conversation for pair in found.different})


def test_what_is_written_has_the_named_template_in_it(
    tiny: Callable[[str], Path], tiny_lora: Callable[[str], Path], tmp_path: Path
) -> None:
    model = (tiny("qwen2.5"), tiny_lora("qwen2.5"))
    text = template_text(find_template("llamafactory:qwen3_nothink"))
    for number, command in enumerate((("template", "convert"), ("merge",))):
        out = tmp_path / str(number)
        finished = run_packager(*command, *model, "-o", out, "--template", "llamafactory:qwen3_nothink")
        assert finished.code == 0, finished.err
        assert (out / "chat_template.jinja").read_text().endswith(text)


def test_a_named_template_is_proved_with_a_checkpoint_and_against_it(tiny: Callable[[str], Path]) -> None:
    engines = ("--engine", "llama.cpp")
    proved = run_packager("template", "check", tiny("qwen2.5"), "--template", "llamafactory:qwen", *engines)
    assert proved.code == 0, proved.err
    against = run_packager("template", "check", "chatml", "--reference", tiny("qwen2.5"), *engines)
    assert against.code == 5
    assert "CORE conversations differ on llama.cpp" in against.out


def test_a_template_that_writes_bos_is_equal_on_a_tokenizer_without_one(
    tiny: Callable[[str], Path], ollama_url: str
) -> None:
    """llama.cpp passes <|endoftext|> for Qwen's BOS, XTuner and transformers write none."""
    engines = ("--engine", "llama.cpp", "--engine", "ollama")
    trained = ("--template", "xtuner:qwen_chat")
    finished = run_packager("template", "check", tiny("qwen2.5"), *trained, *engines, ollama=ollama_url)
    assert finished.code == 0, finished.out
    assert "every CORE conversation is equal on llama.cpp, ollama" in finished.out
    shown = run_packager("template", "show", tiny("qwen2.5"), *trained)
    assert '    fixed  bos_token = "": ' in shown.out


def test_thoughts_of_earlier_turns_are_left_out_as_in_training(tiny: Callable[[str], Path], ollama_url: str) -> None:
    """llama.cpp's server passes preserve_thinking, transformers and the trainer do not."""
    trained = ("--template", "llamafactory:qwen3", "--engine", "ollama", "--json")
    finished = run_packager("template", "check", tiny("qwen3"), *trained, ollama=ollama_url)
    assert finished.code == 0, finished.err
    cells = {cell.conversation: cell for cell in decode(TemplateMatrix, json.loads(finished.out)).rows[0].cells}
    assert {cells[name].outcome.value for name in ("think-in-history", "whitespace", "user")} == {"passed"}


def test_a_template_whose_tokens_the_tokenizer_lacks_is_told(tiny: Callable[[str], Path]) -> None:
    shown = run_packager("template", "show", tiny("llama3.1"), "--template", "chatml")
    assert shown.code == 0, shown.err
    assert "the trainer stops at '<|im_end|>', which is no special token of the tokenizer" in shown.out


def test_a_model_in_ollama_is_reached_by_its_tag_where_its_name_is_in_the_list(ollama_url: str) -> None:
    server = OllamaServer.connect(ollama_url)
    gguf = described(packaged_gguf())
    server.upload(gguf.path, gguf.sha256)
    server.create("zephyr", files={gguf.path.name: gguf.sha256}, parameters={}, template="{{ .Prompt }}!")
    named = run_packager("template", "show", "zephyr", ollama=ollama_url)
    model = run_packager("template", "show", "zephyr:latest", ollama=ollama_url)
    server.delete("zephyr")
    assert "the named template zephyr" in named.out
    assert model.code == 12
    assert "zephyr:latest: Ollama builds its prompts from a Go TEMPLATE" in error_lines(model)[0]


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (("check", "FILE"), 2, "--reference"),
        (("check", "BASE", "--reference", "BASE"), 2, "its own reference"),
        (("show", "./none.jinja"), 3, "no such file or folder"),
        (("show", "none.gguf"), 3, "none.gguf"),
        (("show", "llamafactory:qwn"), 3, "near: llamafactory:qwen"),
        (("show", "BASE", "--template", "qwen_caht"), 3, "hint: Names: packager template list"),
        (("show", "FILE", "adapter"), 3, "no such folder"),
        (("show", "not a name"), 2, "not a name"),
        (("diff", "FILE", "HANGS"), 4, "hangs.jinja"),
        (("check", "BASE", "--template", "HANGS"), 4, "hangs.jinja"),
        (("check", "BASE", "--conversations", "FILE"), 3, "chatml.jinja: line 1 is not JSON"),
        (("check", "BASE", "-o", "none/matrix.json", "--engine", "llama.cpp"), 3, "none/matrix.json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input_is_one_line(
    arguments: tuple[str, ...], code: int, word: str, tiny: Callable[[str], Path], chatml: Path, tmp_path: Path
) -> None:
    (tmp_path / "hangs.jinja").write_text(HANGS)
    places = {"FILE": chatml, "BASE": tiny("qwen2.5"), "HANGS": tmp_path / "hangs.jinja"}
    finished = run_packager("template", *(places.get(word, word) for word in arguments), cwd=tmp_path)
    lines = error_lines(finished)
    assert finished.code == code, finished.err
    assert word in " ".join(lines)
    assert sum(line.startswith("error: ") for line in lines) == 1


def test_without_a_template_in_the_folder(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny("qwen2.5"), base)
    config = json.loads((base / "tokenizer_config.json").read_text())
    del config["chat_template"]
    (base / "tokenizer_config.json").write_text(json.dumps(config))
    assert run_packager("template", "show", base).code == 12
