"""The command line, what it shows, and what it writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from packager.artifacts import Conversation, Message
from packager.cli import main
from packager.doctor.case import Reference, read_patient, read_reference
from packager.doctor.diagnosis import examine
from packager.doctor.finding import Diagnosis, Examined, Finding, Healthy, NotChecked, Organ, Severity, by_cost
from packager.errors import InputInvalid, OllamaFailed, Usage
from packager.events import silent
from tests.doctor.planted import create, edited
from tests.run_packager import error_lines, run_packager
from tests.test_light_core import BLOCK


def finding(code: str, organ: Organ, severity: Severity, affected: float = 1.0) -> Finding:
    return Finding(code=code, organ=organ, severity=severity, what="what", cost="cost", affected=affected)


def test_the_dearest_fault_comes_first() -> None:
    found = (
        finding("D", Organ.QUANTIZATION, Severity.MINOR),
        finding("C", Organ.TOKENIZER, Severity.SERIOUS, 0.1),
        finding("B", Organ.STOP, Severity.SERIOUS, 0.9),
        finding("A", Organ.TEMPLATE, Severity.CRITICAL),
    )
    assert "".join(each.code for each in by_cost(found)) == "ABCD"


def test_examinations_add_up() -> None:
    one = Examined(findings=(finding("A", Organ.BLOB, Severity.MINOR),), healthy=(Healthy(organ=Organ.BOS, what="x"),))
    other = Examined(not_checked=(NotChecked(organ=Organ.STOP, why="y"),))
    assert one + other == Examined(findings=one.findings, healthy=one.healthy, not_checked=other.not_checked)


def test_the_command_shows_faults_mends_and_the_rest(small: Path, plain: Path, ollama_url: str, tmp_path: Path) -> None:
    create(ollama_url, "planted", plain, parameters={"num_ctx": 4096, "stop": ["\n"]}, system="You are a pirate.")
    arguments = ("doctor", "planted", "--reference", small, "-o", tmp_path / "out")
    shown = run_packager(*arguments, ollama=ollama_url)
    assert shown.code == 5, shown.err
    lines = [line.strip() for line in shown.out.splitlines()]
    assert lines[1].startswith("default system prompt  critical")
    assert "(SYSTEM_OTHER)" in shown.out
    assert "mends default system prompt, stop:" in lines
    assert f"ollama create planted:latest -f {tmp_path}/out/Modelfile" in lines
    assert any(line.startswith("healthy      weights: ") for line in lines)
    assert lines[-1] == "at fault: default system prompt, stop (planted:latest against small)"
    written = (tmp_path / "out" / "Modelfile").read_text()
    assert "PIRATE" not in written.upper()
    assert 'PARAMETER stop "<|im_end|>"' in written
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["Modelfile"]


def run(*arguments: object) -> int:
    """Run the command in this process, where torch is loaded once."""
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    assert isinstance(left.value.code, int)
    return left.value.code


def test_a_healthy_file_is_exit_code_0_and_writes_nothing(
    small: Path, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("doctor", plain, "--reference", small, "-o", tmp_path / "out", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["model"], told["reference"], told["findings"]) == (str(plain), "small", [])
    assert (told["modelfile"], told["written"]) == (None, None)
    assert {each["organ"] for each in told["not_checked"]} == {"context", "sampling"}
    assert not (tmp_path / "out").exists()


def test_a_file_is_mended_by_a_build_of_its_type(
    small: Path, plain: Path, known: Callable[..., Reference], tmp_path: Path
) -> None:
    planted = edited(plain, tmp_path / "planted.gguf", {"llama.rope.freq_base": 500000.0})
    (fault,) = examine(read_patient(str(planted), silent), known(small), emit=silent).findings
    assert fault.mend == f"packager build {small} -o planted-mended --quant f16 --no-register"


@pytest.mark.parametrize(
    ("model", "error", "code"),
    [("nobody.gguf", "nobody.gguf: no such file", 3), ("nobody", "no Ollama answers", 10), (".", ".: a folder", 2)],
    ids=["file", "no server", "folder"],
)
def test_what_is_not_there_is_one_line(model: str, error: str, code: int, small: Path) -> None:
    shown = run_packager("doctor", model, "--reference", small)
    assert shown.code == code
    assert error in error_lines(shown)[0]


def test_a_model_that_ollama_does_not_have(ollama_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", ollama_url)
    with pytest.raises(OllamaFailed, match="has no such model"):
        read_patient("nobody", silent)


def test_without_the_build_packages_the_rest_is_examined(small: Path, plain: Path, tmp_path: Path) -> None:
    planted = edited(plain, tmp_path / "tiny-q8_0.gguf", {"tokenizer.chat_template": "{{ messages }}"})
    (tmp_path / "sitecustomize.py").write_text(BLOCK)  # in the processes that it starts as well
    done = subprocess.run(
        [sys.executable, "-m", "packager", "doctor", str(planted), "--reference", str(small), "--json"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 5, done.stderr
    told = json.loads(done.stdout)
    assert {each["code"] for each in told["findings"]} == {"STALE_TEMPLATE", "QUANT_LABEL"}
    missing = {each["organ"]: each["why"] + each["how"] for each in told["not_checked"]}
    assert set(missing) == {"weights", "architecture", "vocabulary", "tokenizer", "BOS", "context", "sampling"}
    assert "No module named 'transformers'" in missing["tokenizer"]
    assert "ollama-packager[build]" in missing["weights"]


def test_the_users_own_data_decide_what_context_is_needed(
    small: Path, plain: Path, known: Callable[..., Reference], ollama_url: str, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.setenv("OLLAMA_HOST", ollama_url)
    create(ollama_url, "planted", plain, parameters={"num_ctx": 256})
    chats = tuple(
        Conversation(id=str(number), group="USER", messages=(Message(role="user", content=text),))
        for number, text in enumerate(("word " * 300, "Hello", "Bye"))
    )
    found = examine(read_patient("planted", silent), known(small), conversations=chats, output=tmp_path, emit=silent)
    (fault,) = found.findings
    assert fault.code == "CONTEXT_SHORT"
    assert fault.cost == "prompts over 256 tokens are cut without a word, 1 of your 3 conversations among them"
    assert "PARAMETER num_ctx 4096" in (tmp_path / "Modelfile").read_text()


def test_a_reference_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputInvalid):
        read_reference(tmp_path, None, None, emit=silent)


def test_a_folder_is_no_patient(tmp_path: Path) -> None:
    with pytest.raises(Usage, match="a folder"):
        read_patient(str(tmp_path), silent)


def test_a_diagnosis_of_a_file_names_both_sides(small: Path, plain: Path, known: Callable[..., Reference]) -> None:
    found = examine(read_patient(str(plain), silent), known(small), emit=silent)
    assert isinstance(found, Diagnosis)
    assert (found.model, found.reference, found.versions) == (str(plain), "small", ())
