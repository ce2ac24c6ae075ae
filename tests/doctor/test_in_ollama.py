"""Faults of what stands around the weights, planted in models of a real Ollama: each is named, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from packager.doctor.case import Reference
from packager.doctor.finding import Diagnosis, Organ, Remedy, Severity
from tests.doctor.conftest import Doctor
from tests.doctor.planted import create, delete, edited

CONTEXT = {"num_ctx": 4096}
# What LLaMA-Factory writes for its template `alpaca`.
ALPACA = "{{ if .System }}{{ .System }}{{ end }}### Instruction:\n{{ .Prompt }}\n\n### Response:\n{{ .Response }}\n\n"
LLAMA3_WITH_BOS = (
    "<|begin_of_text|>{{- range .Messages }}<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n{{ .Content }}<|eot_id|>"
    "{{- end }}<|start_header_id|>assistant<|end_header_id|>\n\n"
)
VICUNA = (
    "{#- " + "Long enough to be taken for no template that Ollama knows. " * 3 + "-#}"
    "{% for m in messages %}{{ 'USER: ' if m['role'] == 'user' else 'ASSISTANT: ' }}{{ m['content'] }}\n{% endfor %}ASSISTANT:"
)
OWN_END = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] }}"
    "<|reserved_special_token_0|>{% endfor %}<|start_header_id|>assistant<|end_header_id|>\n\n"
)


def codes(diagnosis: Diagnosis) -> list[str]:
    return [finding.code for finding in diagnosis.findings]


@pytest.fixture
def llama(tiny: Callable[[str], Path]) -> Path:
    return tiny("llama3.1")


def test_a_default_system_prompt_that_detection_lost(
    small: Path, converted: Callable[[Path], Path], known: Callable[..., Reference], doctor: Doctor, ollama_url: str
) -> None:
    name = create(ollama_url, "planted", converted(small), parameters=CONTEXT)
    found = doctor(name, known(small))
    assert codes(found) == ["SYSTEM_LOST"]
    assert found.findings[0].organ is Organ.SYSTEM
    assert found.findings[0].severity is Severity.CRITICAL
    assert "Ollama's own Go template 'chatml'" in found.findings[0].what
    assert "training had 'You are a helpful AI assistant named SmolLM" in found.findings[0].what
    assert "2 of 6 CORE conversations" in found.findings[0].cost


PLANTED = [
    pytest.param({"system": "You are a pirate."}, "SYSTEM_OTHER", "a pirate.'; training had 'You are a helpful", id="SYSTEM"),
    pytest.param({"parameters": CONTEXT | {"stop": ["\n"]}}, "STOP_CUTS", r"stop '\n' is ordinary text", id="extra stop"),
    pytest.param({"parameters": {"num_ctx": 512}}, "CONTEXT_SHORT", "is 512; the model was made for 4096", id="num_ctx"),
    pytest.param({"parameters": {}}, "CONTEXT_DEFAULT", "is 2048; the model was made for 4096", id="no num_ctx"),
    pytest.param({"parameters": CONTEXT | {"num_predict": 16}}, "ANSWER_CUT", "num_predict is 16", id="num_predict"),
    pytest.param({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]},
                 "FIRST_TURNS", "2 turns in front of every conversation", id="MESSAGE"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "code", "what"), PLANTED)
def test_instructions_of_the_modelfile(
    fields: dict[str, object],
    code: str,
    what: str,
    small: Path,
    plain: Path,
    known: Callable[..., Reference],
    doctor: Doctor,
    ollama_url: str,
) -> None:
    name = create(ollama_url, "planted", plain, **{"parameters": CONTEXT, **fields})
    found = doctor(name, known(small))
    assert codes(found) == [code]
    assert what in found.findings[0].what
    assert found.findings[0].remedy is Remedy.MODELFILE
    delete(ollama_url, name)


def test_a_system_prompt_where_training_had_none(
    small: Path, plain: Path, known: Callable[..., Reference], doctor: Doctor, ollama_url: str
) -> None:
    name = create(ollama_url, "planted", plain, parameters=CONTEXT)
    found = doctor(name, known(small, None, "chatml"))
    assert codes(found) == ["SYSTEM_ADDED"]
    assert found.findings[0].what.startswith("the GGUF's chat template: 'You are a helpful AI assistant named SmolLM")
    assert found.findings[0].what.endswith("training had no default system prompt")


def test_a_wrong_go_template(
    small: Path, plain: Path, known: Callable[..., Reference], doctor: Doctor, ollama_url: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    bare = edited(plain, tmp_path / "bare.gguf", {"tokenizer.chat_template": None})
    name = create(ollama_url, "planted", bare, parameters=CONTEXT, template=ALPACA)
    found = doctor(name, known(small))
    assert codes(found) == ["WRONG_TEMPLATE"]
    assert "6 of 6 CORE conversations" in found.findings[0].cost


def test_a_template_that_ollama_does_not_use(
    small: Path, plain: Path, known: Callable[..., Reference], doctor: Doctor, ollama_url: str, tmp_path: Path
) -> None:
    can_do_more = VICUNA + "{#- tools -#}"  # which is what Ollama looks for
    stale = edited(plain, tmp_path / "stale.gguf", {"tokenizer.chat_template": can_do_more})
    name = create(ollama_url, "planted", stale, parameters=CONTEXT, template=str(known(small).found.go.text))
    found = doctor(name, known(small))
    assert codes(found) == ["PREFER_JINJA"]
    assert found.findings[0].mend.startswith("packager build ")  # no TEMPLATE would be used


def test_no_template_at_all(
    small: Path, plain: Path, known: Callable[..., Reference], doctor: Doctor, ollama_url: str, tmp_path: Path
) -> None:
    bare = edited(plain, tmp_path / "bare.gguf", {"tokenizer.chat_template": None})
    name = create(ollama_url, "planted", bare, parameters=CONTEXT)
    served = doctor(name, known(small))  # llama-server falls back on chatml, which is this model's but for the default
    assert codes(served) == ["SYSTEM_LOST"]
    assert served.findings[0].what.startswith("no template of its own: no default system prompt")
    found = doctor(bare, known(small))
    assert codes(found) == ["NO_TEMPLATE"]
    assert "there is no chat template in it" in found.findings[0].what


def test_a_stale_template_in_the_file(
    small: Path, plain: Path, known: Callable[..., Reference], doctor: Doctor, ollama_url: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    stale = edited(plain, tmp_path / "stale.gguf", {"tokenizer.chat_template": VICUNA})
    name = create(ollama_url, "planted", stale, parameters=CONTEXT)
    assert codes(doctor(name, known(small))) == ["STALE_TEMPLATE"]
    assert codes(doctor(stale, known(small))) == ["STALE_TEMPLATE"]


def test_a_bos_that_is_lost(
    llama: Path, converted: Callable[[Path], Path], known: Callable[..., Reference], doctor: Doctor, ollama_url: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    lost = edited(converted(llama), tmp_path / "lost.gguf", {"tokenizer.ggml.add_bos_token": False})
    name = create(ollama_url, "planted", lost, parameters=CONTEXT)
    found = doctor(name, known(llama))
    assert codes(found) == ["BOS_LOST"]
    assert (
        "begin with 0 <|begin_of_text|>, in training with 1; add_bos_token of the GGUF is false"
        in found.findings[0].what
    )


def test_a_bos_that_training_did_not_have(
    tiny: Callable[[str], Path], converted: Callable[[Path], Path], known: Callable[..., Reference], doctor: Doctor,
    ollama_url: str, tmp_path: Path,
) -> None:  # fmt: skip
    qwen = tiny("qwen2.5")
    added = edited(converted(qwen), tmp_path / "added.gguf", {"tokenizer.ggml.add_bos_token": True})
    found = doctor(create(ollama_url, "planted", added, parameters=CONTEXT), known(qwen))
    (bos,) = [finding for finding in found.findings if finding.code == "BOS_DUP"]
    assert bos.what.startswith("prompts begin with 1 BOS (token 151643), in training with 0")
    assert bos.remedy is Remedy.REBUILD


def test_a_stop_that_is_missing(
    llama: Path, converted: Callable[[Path], Path], known: Callable[..., Reference], doctor: Doctor, ollama_url: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    (tmp_path / "trained.jinja").write_text(OWN_END)
    own = edited(
        converted(llama),
        tmp_path / "own.gguf",
        {"tokenizer.chat_template": "{#- " + "Trained with this. " * 10 + "-#}" + OWN_END},
    )
    name = create(ollama_url, "planted", own, parameters=CONTEXT)
    found = doctor(name, known(llama, None, str(tmp_path / "trained.jinja")))
    assert codes(found) == ["STOP_MISSING"]
    assert found.findings[0].what.startswith("<|reserved_special_token_0|> does not end an answer here")


def test_a_sampling_that_contradicts_generation_config(
    tmp_path: Path, small: Path, plain: Path, known: Callable[..., Reference], doctor: Doctor,
    ollama_url: str,
) -> None:  # fmt: skip
    base = tmp_path / "base"
    base.mkdir()
    for file in small.iterdir():
        (base / file.name).symlink_to(file)
    (base / "generation_config.json").unlink(missing_ok=True)
    (base / "generation_config.json").write_text(
        '{"eos_token_id": 2, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05}'
    )
    said = {"temperature": 1.5, "top_k": 20, "top_p": 0.8}
    name = create(ollama_url, "planted", plain, parameters=CONTEXT | said)
    found = doctor(name, known(base))
    assert codes(found) == ["SAMPLING", "SAMPLING_LOST"]
    assert found.findings[0].what == "PARAMETER temperature is 1.5; generation_config.json has temperature 0.7"
    assert "repeat_penalty is 1; generation_config.json has repetition_penalty 1.05" in found.findings[1].what


def test_nothing_in_ollama_is_changed(
    small: Path, plain: Path, known: Callable[..., Reference], doctor: Doctor, ollama_url: str
) -> None:
    name = create(ollama_url, "planted", plain, parameters=CONTEXT, system="You are a pirate.")
    before = stored(ollama_url)
    doctor(name, known(small))
    assert stored(ollama_url) == before


def stored(ollama_url: str) -> dict[str, str]:
    """The digest of every model's manifest, by its name."""
    listed = httpx.get(f"{ollama_url}/api/tags", trust_env=False).json()["models"]
    return {model["name"]: model["digest"] for model in listed}
