from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from packager import codec
from packager.artifacts import Adapter, AdapterStep, Checkpoint, Pin
from packager.chat.probes import every_probe
from packager.errors import InputInvalid, UnsafeInput, Unsupported
from packager.formats.adapter import read_adapter
from packager.formats.checkpoint import read_checkpoint
from packager.stages.templates import Target, TemplateResult, TemplatesJob, make_template, write_templates
from tests.chat import samples

QWEN_DEFAULT = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."


@pytest.fixture(scope="session")
def read(smollm2: Path, tiny: Callable[[str], Path]) -> Callable[[str], Checkpoint]:
    """`read(family)`: a checkpoint with the family's real tokenizer and chat template."""
    return lambda family: read_checkpoint(smollm2 if family == "smollm2" else tiny(family))


def make(base: Checkpoint, adapter: Adapter | None = None, file: Path | None = None) -> TemplateResult:
    return make_template(TemplatesJob(base=base, adapter=adapter, template_file=str(file) if file else None))


@pytest.mark.parametrize(
    ("family", "first_stop", "adds_bos", "lmdeploy_code"),
    [
        ("smollm2", "<|im_end|>", True, ""),
        ("qwen2.5", "<|im_end|>", False, ""),
        ("qwen3", "<|im_end|>", False, "NO_DEFAULT_SYS"),
        ("llama3.1", "<|eot_id|>", True, "NO_DEFAULT_SYS"),
    ],
    ids=["smollm2", "qwen2.5", "qwen3", "llama3.1"],
)
def test_real_checkpoints(
    read: Callable[[str], Checkpoint], family: str, first_stop: str, adds_bos: bool, lmdeploy_code: str
) -> None:
    base = read(family)
    found = make(base)
    assert found.template.source == "the base's chat template"
    assert found.template.pins == ()
    assert found.template.stops[0] == first_stop
    assert found.template.adds_bos is adds_bos
    assert found.lmdeploy.code == lmdeploy_code
    assert (found.lmdeploy.text is None) == bool(lmdeploy_code)
    assert found.template.text.endswith(base.chat_template or "none")
    assert found.notes == ()


def test_canonical_ids_are_those_of_training(read: Callable[[str], Checkpoint]) -> None:
    from transformers import AutoTokenizer

    base = read("qwen3")
    text = make(base).template.text
    tokenizer: Any = AutoTokenizer.from_pretrained(base.folder)
    for probe in every_probe():
        turns = samples.openai(probe)
        given = {"tools": samples.openai_tools(probe), "add_generation_prompt": True}
        original = tokenizer.apply_chat_template(turns, **given)["input_ids"]
        canonical = tokenizer.apply_chat_template(turns, chat_template=text, **given)["input_ids"]
        assert canonical == original, probe.id


def test_the_adapter_that_peft_saved_agrees_with_its_base(smollm2: Path, smollm2_lora: Path) -> None:
    base = read_checkpoint(smollm2)
    adapter = read_adapter(smollm2_lora, base)
    found = make(base, adapter)
    assert found.template.source in ("the adapter's chat template", "the base's chat template")
    assert found.template.original_sha256 == make(base).template.original_sha256


def test_an_adapter_with_another_template_stops(read: Callable[[str], Checkpoint]) -> None:
    adapter = Adapter(
        steps=(AdapterStep(folder=Path("lora")),), name="lora", base_name=None, updates=(), chat_template=samples.CHATML
    )
    with pytest.raises(InputInvalid, match="build different prompts: conversation user") as caught:
        make(read("qwen2.5"), adapter)
    assert f"+{QWEN_DEFAULT}<|im_end|>\\n" in caught.value.lines


def test_a_named_file_gives_the_pins_as_values_and_notes(read: Callable[[str], Checkpoint], tmp_path: Path) -> None:
    path = tmp_path / "llama.jinja"
    path.write_text(samples.DATED.replace("<|im_end|>", "<|eot_id|>"), encoding="utf-8")
    found = make(read("llama3.1"), file=path)
    assert found.template.source == "the file llama.jinja"
    assert [(pin.name, pin.value) for pin in found.template.pins] == [("date_string", '"26 Jul 2024"')]
    assert all(isinstance(pin, Pin) and pin.reason for pin in found.template.pins)
    assert any(note.startswith('date_string is fixed to "26 Jul 2024"') for note in found.notes)
    assert found.template.stops[0] == "<|eot_id|>"


def test_generation_configs_eos_list_is_kept(read: Callable[[str], Checkpoint]) -> None:
    base = dataclasses.replace(read("qwen2.5"), eos_token_ids=(151645, 151643))
    assert make(base).template.stops == ("<|im_end|>", "<|endoftext|>")
    odd = make(dataclasses.replace(base, eos_token_ids=(5,)))
    assert odd.template.stops == ("<|im_end|>",)
    assert any("the end token 5" in note for note in odd.notes)


def test_refusals_are_notes(read: Callable[[str], Checkpoint], tmp_path: Path) -> None:
    path = tmp_path / "t.jinja"
    path.write_text(samples.NO_SYSTEM, encoding="utf-8")
    found = make(read("qwen2.5"), file=path)
    assert "the template refuses conversation system-user (System role not supported)" in found.notes
    assert found.lmdeploy.code == "SYS_MERGE"


def test_a_template_that_writes_no_bos_where_the_tokenizer_adds_one(
    read: Callable[[str], Checkpoint], tmp_path: Path
) -> None:
    path = tmp_path / "t.jinja"
    path.write_text(samples.CHATML_WITH_DEFAULT, encoding="utf-8")
    found = make(read("llama3.1"), file=path)
    assert found.template.adds_bos is False
    assert found.lmdeploy.code == "BOS_DUP"
    assert any("the tokenizer adds a BOS" in note for note in found.notes)


def test_nothing_that_ends_an_answer_is_a_note(read: Callable[[str], Checkpoint], tmp_path: Path) -> None:
    path = tmp_path / "t.jinja"
    path.write_text("{% for m in messages %}{{ m.content }}{% endfor %}", encoding="utf-8")
    base = dataclasses.replace(read("qwen2.5"), eos_token_ids=())
    assert make(base, file=path).template.stops == ("<|im_end|>",)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (samples.HOSTILE["string product"], UnsafeInput),
        ("{% import 'os' as os %}", UnsafeInput),
        ("{{ raise_exception('never') }}", UnsafeInput),
        ("{% if %}", InputInvalid),
    ],
    ids=["allocates", "imports", "always raises", "no jinja"],
)
def test_bad_templates_are_named_by_file(
    read: Callable[[str], Checkpoint], tmp_path: Path, text: str, error: type[Exception]
) -> None:
    path = tmp_path / "evil.jinja"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(error, match=r"the file evil\.jinja"):
        make(read("qwen2.5"), file=path)


def test_no_template_is_unsupported(read: Callable[[str], Checkpoint]) -> None:
    with pytest.raises(Unsupported, match="no chat template"):
        make(dataclasses.replace(read("qwen2.5"), chat_template=None))


def test_commands_name_the_files_that_are_written(read: Callable[[str], Checkpoint], tmp_path: Path) -> None:
    found = make(read("qwen2.5"))
    written = write_templates(found, tmp_path)
    assert {path.name for path in written} == {"chat_template.jinja", "lmdeploy.json", "ollama.gotmpl", "serve.txt"}
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in written}
    assert "--chat-template chat_template.jinja" in found.vllm_command
    assert found.lmdeploy_command.endswith("--chat-template lmdeploy.json")
    assert found.prepare_command.startswith("packager merge ")
    assert (tmp_path / "chat_template.jinja").read_bytes().decode() == found.template.text
    assert json.loads((tmp_path / "lmdeploy.json").read_text())["meta_instruction"] == QWEN_DEFAULT
    commands = [line for line in (tmp_path / "serve.txt").read_text().splitlines() if line and line[0] != "#"]
    assert commands == [found.prepare_command, found.vllm_command, found.lmdeploy_command]


def test_without_a_json_form_the_commands_say_why(read: Callable[[str], Checkpoint], tmp_path: Path) -> None:
    found = make(read("qwen3"))
    written = write_templates(found, tmp_path)
    assert {path.name for path in written} == {"chat_template.jinja", "ollama.gotmpl", "serve.txt"}
    assert (
        "ollama.gotmpl does not hold for answers in the history that have </think>"
        in (tmp_path / "serve.txt").read_text()
    )
    text = (tmp_path / "serve.txt").read_text()
    assert "NO_DEFAULT_SYS" in text
    assert found.lmdeploy.reason in text
    assert found.lmdeploy_command in text
    assert found.lmdeploy_command.endswith("--chat-template hf")


@pytest.mark.parametrize(
    ("targets", "files", "engines"),
    [
        ((Target.OLLAMA,), {"chat_template.jinja", "ollama.gotmpl"}, ()),
        ((Target.LMDEPLOY,), {"lmdeploy.json", "serve.txt"}, ("lmdeploy",)),
        ((Target.VLLM,), {"chat_template.jinja", "serve.txt"}, ("vllm",)),
        (
            (Target.OLLAMA, Target.VLLM, Target.LMDEPLOY),
            {"chat_template.jinja", "lmdeploy.json", "ollama.gotmpl", "serve.txt"},
            ("vllm", "lmdeploy"),
        ),
    ],
    ids=["ollama", "lmdeploy", "vllm", "all"],
)
def test_a_target_gets_its_files_and_commands(
    read: Callable[[str], Checkpoint],
    tmp_path: Path,
    targets: tuple[Target, ...],
    files: set[str],
    engines: tuple[str, ...],
) -> None:
    written = write_templates(make(read("qwen2.5")), tmp_path, targets)
    assert {path.name for path in written} == files == {path.name for path in tmp_path.iterdir()}
    commands = (tmp_path / "serve.txt").read_text().splitlines() if engines else []
    assert tuple(line.split()[0] for line in commands if line[:1] not in ("", "#", "p")) == engines


def test_the_same_input_gives_the_same_bytes_without_paths(read: Callable[[str], Checkpoint], tmp_path: Path) -> None:
    base = read("qwen3")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_templates(make(base), tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
        assert str(base.folder).encode() not in path.read_bytes()


def test_an_architecture_that_ollama_renders_itself_is_noted_without_a_server(
    read: Callable[[str], Checkpoint],
) -> None:
    forced = dataclasses.replace(read("qwen2.5"), architecture="Gemma4ForConditionalGeneration")
    assert any("renderer gemma4" in note and "(RENDERER_FORCED)" in note for note in make(forced).notes)
    assert not any("RENDERER_FORCED" in note for note in make(read("qwen2.5")).notes)


def test_a_result_has_a_json_form(read: Callable[[str], Checkpoint]) -> None:
    found = make(read("qwen2.5"))
    assert codec.decode(TemplateResult, codec.encode(found)) == found
