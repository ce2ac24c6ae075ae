from __future__ import annotations

import dataclasses
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from packager import codec
from packager.artifacts import ChatTemplate, Checkpoint, Dtype, Message, Sampling, TemplateForm
from packager.chat.probes import core_probes
from packager.engines.ollama import OllamaEngine, OllamaServer
from packager.engines.tokenizer import TokenizerReference
from packager.errors import InputInvalid
from packager.formats.checkpoint import read_checkpoint
from packager.formats.modelfile import parse_modelfile
from packager.sources.llama_cpp_tree import LlamaCppTree
from packager.stages.modelfile import ModelfileJob, ModelfileResult, make_modelfile, write_modelfile
from packager.stages.templates import TemplatesJob, make_template
from packager.weights.probe_gguf import write_probe
from packager.weights.vocabulary import vocabulary_of_folder
from tests.ollama_server import running_ollama

TEMPLATE = ChatTemplate(
    source="test", original_sha256="0" * 64, text="", pins=(), stops=("<|im_end|>", "<|endoftext|>"), adds_bos=False
)
GO = TemplateForm(text=r'{{- range .Messages }}{{- "<\"\n" }}{{- .Content }}' + "\n" + r'{{- end }}{{- ">\"" }}')
NO_GO = TemplateForm(text=None, code="POSITION", reason="rounds are numbered")
BASE = Checkpoint(
    folder=Path("base"), name="base", architecture="Qwen2ForCausalLM", dtype=Dtype.BFLOAT16, hidden_size=64, layers=2,
    vocab_size=100, context_tokens=32768, ties_embeddings=True, eos_token_ids=(1,),
    sampling=Sampling(temperature=0.7, top_k=20, top_p=0.8, min_p=0.0, repetition_penalty=1.05), chat_template=None,
    license_id="apache-2.0", license_file=None, tensors=(),
)  # fmt: skip


def made(**changes: object) -> ModelfileResult:
    base = dataclasses.replace(BASE, **changes)  # type: ignore[arg-type]
    return make_modelfile(ModelfileJob(base=base, template=TEMPLATE, go=GO, gguf_name="m-Q8_0.gguf"))


def test_values_come_from_the_base_and_the_template() -> None:
    parameters = made().modelfile.parameters
    assert parameters.stop == ("<|im_end|>", "<|endoftext|>")
    assert (parameters.temperature, parameters.top_k, parameters.top_p, parameters.min_p) == (0.7, 20, 0.8, 0.0)
    assert parameters.repeat_penalty == 1.05


def test_the_text_says_the_values() -> None:
    result = made()
    assert parse_modelfile(result.text) == result.modelfile
    assert "FROM ./m-Q8_0.gguf\n" in result.text
    assert "TEMPLATE" not in [line.split()[0] for line in result.text.splitlines() if line]


@pytest.mark.parametrize(
    ("declared", "num_ctx", "note"),
    [
        (32768, 8192, "num_ctx is 8192 of the model's 32768 tokens"),
        (8192, 8192, ""),
        (2048, 2048, ""),
        (None, None, "declares no context length"),
    ],
    ids=["capped", "at the cap", "below", "unknown"],
)
def test_the_context_is_capped_and_said(declared: int | None, num_ctx: int | None, note: str) -> None:
    result = made(context_tokens=declared)
    assert result.modelfile.parameters.num_ctx == num_ctx
    assert [line for line in result.notes if note and note in line] == list(result.notes)


def test_sampling_that_the_author_did_not_record_has_no_line() -> None:
    result = made(sampling=Sampling())
    assert all(word not in result.text for word in ("temperature", "top_k", "top_p", "min_p", "repeat_penalty"))


def test_the_licence_file_beats_its_name(tmp_path: Path) -> None:
    path = tmp_path / "LICENSE"
    path.write_text("MIT License\n\nCopyright\n", encoding="utf-8")
    result = made(license_file=path)
    assert result.modelfile.license_text == "MIT License\n\nCopyright\n"
    assert parse_modelfile(result.text) == result.modelfile


def test_without_a_file_the_licence_is_its_name() -> None:
    assert made().modelfile.license_text == "apache-2.0"
    none = made(license_id=None)
    assert none.modelfile.license_text is None
    assert "the base names no licence" in none.notes


def test_a_text_that_lost_something_is_noted(tmp_path: Path) -> None:
    path = tmp_path / "LICENSE"
    path.write_text("许可\u3000协议", encoding="utf-8")
    result = made(license_file=path)
    assert result.modelfile.license_text == "许可\u3000协议"
    assert any("cannot carry every value" in note for note in result.notes)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xff\xfe\x00", "not UTF-8"), (b"x" * ((1 << 20) + 1), "longer than"), (None, "cannot be read")],
    ids=["not utf-8", "too long", "missing"],
)
def test_a_licence_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "LICENSE"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputInvalid, match=message) as caught:
        made(license_file=path)
    assert str(path) in caught.value.message


def test_write_puts_the_text_into_modelfile(tmp_path: Path) -> None:
    result = made()
    assert write_modelfile(result, tmp_path) == (tmp_path / "Modelfile", tmp_path / "Modelfile.legacy")
    assert (tmp_path / "Modelfile").read_text() == result.text


def test_a_result_has_a_json_form() -> None:
    result = made()
    assert codec.decode(ModelfileResult, codec.encode(result)) == result


@pytest.mark.parametrize("family", ["qwen2.5", "llama3.1"])
def test_a_real_checkpoint_gives_a_modelfile(tiny: Callable[[str], Path], family: str) -> None:
    result = make_modelfile(
        ModelfileJob(base=read_checkpoint(tiny(family)), template=TEMPLATE, go=NO_GO, gguf_name="m.gguf")
    )
    assert result.modelfile.parameters.num_ctx == 4096
    assert parse_modelfile(result.text) == result.modelfile


def test_the_legacy_text_says_the_same_and_the_template() -> None:
    result = made()
    assert result.legacy_text is not None
    assert parse_modelfile(result.legacy_text) == dataclasses.replace(result.modelfile, template=GO.text)


def test_without_a_go_form_there_is_no_legacy_file(tmp_path: Path) -> None:
    result = make_modelfile(ModelfileJob(base=BASE, template=TEMPLATE, go=NO_GO, gguf_name="m.gguf"))
    assert result.legacy_text is None
    assert write_modelfile(result, tmp_path) == (tmp_path / "Modelfile",)


def test_ollama_itself_makes_the_model_from_the_legacy_file(
    tiny: Callable[[str], Path], tree: LlamaCppTree, ollama_executable: Path, ollama_url: str, tmp_path: Path
) -> None:
    write_probe(tmp_path / "m-Q8_0.gguf", vocabulary_of_folder(tiny("qwen2.5"), tree), template=None)
    write_modelfile(made(), tmp_path)
    create = [ollama_executable, "create", "legacy-file", "-f", tmp_path / "Modelfile.legacy"]
    subprocess.run(create, env={**os.environ, "OLLAMA_HOST": ollama_url}, capture_output=True, check=True)
    server = OllamaServer.connect(ollama_url)
    turns = (Message(role="system", content="S"), Message(role="user", content="a"))
    rendered = server.render("legacy-file", turns)
    stored = dict(server.show("legacy-file").parameters)
    server.delete("legacy-file")
    assert rendered == '<"\nS<"\na>"'
    assert stored["stop"] == TEMPLATE.stops


def test_the_legacy_file_of_a_real_model_where_ollama_is_told_to_take_the_go_path(
    tiny: Callable[[str], Path],
    tree: LlamaCppTree,
    ollama_executable: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = read_checkpoint(tiny("llama3.1"))
    found = make_template(TemplatesJob(base=base, adapter=None, template_file=None))
    template = found.template
    # A GGUF whose own template would be seen in every prompt: the TEMPLATE of the file is what must be used.
    other = "OTHER" + template.text
    vocabulary = vocabulary_of_folder(base.folder, tree)
    write_probe(tmp_path / "m-Q8_0.gguf", vocabulary, template=other, adds_bos=template.adds_bos)
    job = ModelfileJob(base=base, template=template, go=found.go, gguf_name="m-Q8_0.gguf")
    write_modelfile(make_modelfile(job), tmp_path)
    monkeypatch.setenv("OLLAMA_GO_TEMPLATE", "1")
    with running_ollama(ollama_executable, tmp_path / "store" / "models") as url:
        create = [ollama_executable, "create", "legacy-file", "-f", tmp_path / "Modelfile.legacy"]
        subprocess.run(create, env={**os.environ, "OLLAMA_HOST": url}, capture_output=True, check=True)
        engine = OllamaEngine(OllamaServer.connect(url), "legacy-file")
        prompts = {probe.id: engine.render(probe) for probe in core_probes()}
        counts = {probe.id: engine.prompt_token_count(probe) for probe in core_probes()}
    with TokenizerReference(base.folder, template.text) as reference:
        for probe in core_probes():
            expected, ids = reference.render(probe), reference.tokens(probe)
            assert isinstance(expected, str)
            assert isinstance(ids, tuple)
            assert prompts[probe.id] == expected.removeprefix(reference.bos_text)
            assert counts[probe.id] == len(ids)
