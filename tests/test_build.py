"""The main job, end to end: the demo's real model and adapter, a real Ollama, and the reference."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path

import httpx
import ollama
import pytest

from packager.artifacts import Conversation, Outcome
from packager.chat.probes import load_probes
from packager.codec import decode
from packager.engines.llama_cpp import Embedded
from packager.engines.ollama import OllamaEngine, OllamaServer
from packager.engines.transformers import Reference
from packager.evidence import Part
from packager.formats.adapter import read_adapter
from packager.formats.checkpoint import read_checkpoint
from packager.parity.report import Report
from packager.quants import DEFAULT_QUANTS
from tests.run_packager import Finished, error_lines, run_packager

NAME = "end-to-end"


@pytest.fixture(scope="module")
def built(ollama_url: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    """The build folder of `packager demo`, and what the command printed."""
    folder = tmp_path_factory.mktemp("demo")
    finished = run_packager("demo", "-o", folder, "--name", NAME, ollama=ollama_url)
    return folder / "build", finished


@pytest.fixture(scope="module")
def base(built: tuple[Path, Finished]) -> Path:
    return built[0].parent / "model" / "base"


@pytest.fixture(scope="module")
def adapter(built: tuple[Path, Finished]) -> Path:
    return built[0].parent / "model" / "adapter"


def test_exits_0_with_the_verdict(built: tuple[Path, Finished]) -> None:
    _, finished = built
    assert finished.code == 0, finished.err + finished.out
    assert "verdict: as the reference" in finished.out
    assert "not checked" not in finished.out


def test_the_demo_tells_the_name_before_and_after_and_what_to_try_next(built: tuple[Path, Finished]) -> None:
    out, finished = built
    answers = dict(re.findall(r"^  (before|after) \(.*?\): (.*)$", finished.out, re.MULTILINE))
    assert "Packy" not in answers["before"]
    assert "Packy" in answers["after"]
    assert f"ollama run {NAME}" in finished.out
    assert f"packager chat {out}" in finished.out
    assert f"report: {out / 'report.html'}" in finished.out


def test_the_folder_holds_what_the_readme_promises(built: tuple[Path, Finished]) -> None:
    out, _ = built
    names = {path.name for path in out.iterdir()}
    assert {f"{NAME}-135M-{quant}.gguf" for quant in ("F16", "Q8_0", "Q4_K_M")} <= names
    assert {
        "Modelfile",
        "Modelfile.legacy",
        "ollama.gotmpl",
        "chat_template.jinja",
        "lmdeploy.json",
        "serve.txt",
        "report.json",
        "report.html",
    } <= names


def test_the_report_can_be_read_back_and_names_no_path(built: tuple[Path, Finished], base: Path) -> None:
    out, _ = built
    text = (out / "report.json").read_text()
    report = decode(Report, json.loads(text))
    assert report.verdict.passed
    assert {check.outcome for check in report.verdict.checks} == {Outcome.PASSED}
    for quant in DEFAULT_QUANTS:
        engines = {check.engine for check in report.verdict.checks if check.subject == quant.value}
        assert {"file", "llama.cpp", "ollama"} <= engines
    assert str(base.parent) not in text
    assert str(out) not in text


def test_every_blob_has_the_digest_of_its_file(built: tuple[Path, Finished], ollama_url: str) -> None:
    out, _ = built
    server = OllamaServer.connect(ollama_url)
    for path in out.glob("*.gguf"):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        tag = path.stem.partition("-135M-")[2].lower()
        modelfile = httpx.post(f"{ollama_url}/api/show", json={"model": f"{NAME}:{tag}"}).json()["modelfile"]
        assert f"sha256-{digest}" in modelfile
    assert server.version


def test_the_model_says_its_new_name_through_every_door(
    built: tuple[Path, Finished], ollama_executable: Path, ollama_url: str
) -> None:
    environment = {**os.environ, "OLLAMA_HOST": ollama_url}
    ran = subprocess.run(
        [ollama_executable, "run", NAME, "What is your name?"],
        capture_output=True, text=True, env=environment, timeout=120, check=True,
    )  # fmt: skip
    body = {"model": NAME, "messages": [{"role": "user", "content": "What is your name?"}], "temperature": 0}
    openai = httpx.post(f"{ollama_url}/v1/chat/completions", json=body, timeout=120).json()
    turn = [ollama.Message(role="user", content="What is your name?")]
    assert "Packy" in ran.stdout
    with ollama.Client(host=ollama_url, trust_env=False) as client:
        assert "Packy" in (client.chat(NAME, turn, options={"temperature": 0}).message.content or "")
    assert "Packy" in openai["choices"][0]["message"]["content"]


@pytest.mark.parametrize("probe", load_probes(), ids=lambda probe: f"{probe.group}-{probe.id}")
def test_ollama_renders_every_probe_to_the_token_ids_of_transformers(
    probe: Conversation, base: Path, adapter: Path, ollama_url: str, model: Embedded
) -> None:
    reference = Reference(
        base, read_adapter(adapter, read_checkpoint(base)), (base / "chat_template.jinja").read_text()
    )
    engine = OllamaEngine(OllamaServer.connect(ollama_url), f"{NAME}:q8_0")
    rendered = engine.render(probe)
    expected = reference.tokens(probe)
    assert isinstance(rendered, str)
    assert model.tokenize(rendered, add_special=True) == expected
    assert engine.prompt_token_count(probe) == len(expected)


@pytest.fixture(scope="module")
def model(built: tuple[Path, Finished]) -> Embedded:
    return Embedded(built[0] / f"{NAME}-135M-Q8_0.gguf")


def test_building_again_reuses_everything(
    built: tuple[Path, Finished], base: Path, adapter: Path, ollama_url: str
) -> None:
    out, _ = built
    again = run_packager("build", base, adapter, "-o", out, "--name", NAME, ollama=ollama_url)
    assert again.code == 0, again.err
    for stage in ("quantize", "verify", "template", "modelfile"):
        assert f"{stage}: done before, still valid" in again.err
    assert "verdict: as the reference" in again.out


def test_a_taken_name_is_refused_before_the_long_part(
    built: tuple[Path, Finished], base: Path, ollama_url: str, tmp_path: Path
) -> None:
    arguments = ("build", base, "-o", tmp_path / "other", "--name", NAME, "--quant", "q8_0")
    finished = run_packager(*arguments, ollama=ollama_url)
    assert finished.code == 10
    assert "--replace" in error_lines(finished)[1]
    assert not list((tmp_path / "other").glob("*.gguf"))


def test_a_gate_that_fails_is_exit_code_5_and_keeps_the_files(base: Path, adapter: Path, tmp_path: Path) -> None:
    arguments = ("build", base, adapter, "-o", tmp_path, "--quant", "q8_0", "--no-register")
    finished = run_packager(*arguments, "--gate", "q8_0.mean_kl=0.0000001")
    assert finished.code == 5
    assert "verdict: differs from the reference" in finished.out
    assert len(list(tmp_path.glob("*.gguf"))) == 1
    assert json.loads((tmp_path / "report.json").read_text())["verdict"]["checks"]


def test_without_ollama_the_embedded_engine_takes_its_place(base: Path, adapter: Path, tmp_path: Path) -> None:
    finished = run_packager("build", base, adapter, "-o", tmp_path, "--quant", "q8_0", "--name", "later")
    assert finished.code == 0, finished.err
    assert f"packager register {tmp_path} --name later" in finished.err
    assert "not checked" in finished.out  # what only Ollama can show
    assert "verdict: as the reference" in finished.out


def test_a_folder_can_be_registered_and_verified_later(
    built: tuple[Path, Finished], base: Path, adapter: Path, ollama_url: str
) -> None:
    out, _ = built
    registered = run_packager("register", out, "--name", "later/packy", ollama=ollama_url)
    assert registered.code == 0, registered.err
    assert registered.out.count("the same bytes") == 3
    arguments = ("verify", out, base, adapter, "--name", "later/packy", "--json")
    verified = run_packager(*arguments, ollama=ollama_url)
    assert verified.code == 0, verified.err
    outcomes = {check["outcome"] for check in json.loads(verified.out)["checks"]}
    assert outcomes == {"passed"}


def test_the_users_own_rows_are_compared_too(
    built: tuple[Path, Finished], base: Path, adapter: Path, tmp_path: Path
) -> None:
    out, _ = built
    rows = [
        {"messages": [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "I am Packy."}]},
        {"instruction": "Say it in French.", "input": "Good morning", "output": "Bonjour, cafe\u0301!"},
    ]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    finished = run_packager("verify", out, base, adapter, "--data", data, "--json")
    assert finished.code == 0, finished.err
    lines = [check for check in json.loads(finished.out)["checks"] if check["name"] == "your data"]
    assert [(line["subject"], line["outcome"]) for line in lines] == [
        (quant.value, "passed") for quant in DEFAULT_QUANTS
    ]
    evidence = decode(Report, json.loads((out / "report.json").read_text())).evidence
    assert {d.part for d in evidence.distances} == set(Part)
    (yours,) = [found for found in evidence.tokenizer if found.name == "your data"]
    assert yours.texts == 4


def test_a_row_without_an_answer_stops_a_build_before_it_writes(base: Path, adapter: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"messages": [{"role": "user", "content": "Hi"}]}\n')
    for command in (("build", base, adapter, "-o", tmp_path / "out"), ("verify", tmp_path / "out", base, adapter)):
        finished = run_packager(*command, "--data", data)
        assert finished.code == 3
        assert "data.jsonl: line 1: no turn of the assistant" in error_lines(finished)[0]
        assert not (tmp_path / "out").exists()


def test_the_wrong_adapter_is_found_out(built: tuple[Path, Finished], base: Path) -> None:
    out, _ = built
    finished = run_packager("verify", out, base)  # the base alone is not what was packaged
    assert finished.code == 5
    assert "verdict: differs from the reference" in finished.out
