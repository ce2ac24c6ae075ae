from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from packager.cli import COMMANDS
from tests.run_packager import error_lines, run_packager

ROOT = Path(__file__).parents[1]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from packager.cli import packager\n"
        "assert CliRunner().invoke(packager, ['--help']).exit_code == 0\n"
        "heavy = {'torch', 'transformers', 'peft', 'llama_cpp', 'gguf', 'numpy', 'rich', 'ollama', 'httpx', 'jinja2'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", COMMANDS, ids=list(COMMANDS))
def test_every_command_has_help_with_an_example(command: str) -> None:
    finished = run_packager(command, "--help")
    assert finished.code == 0
    assert f"packager {command}" in finished.out.split("Options:")[0]
    assert "Example" in finished.out


def test_readme_shows_the_real_help() -> None:
    shown = re.search(r"```\n\$ packager --help\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert shown is not None
    assert shown.group(1).strip() == run_packager("--help").out.strip()


@pytest.mark.parametrize("readme", ["README.md", "README.zh-CN.md"])
def test_readmes_name_every_command_and_only_real_ones(readme: str) -> None:
    named = set(re.findall(r"packager ([a-z]+)", (ROOT / readme).read_text()))
    assert set(COMMANDS) <= named
    assert named <= {*COMMANDS}


def test_version_is_the_distribution_s() -> None:
    from importlib.metadata import version

    assert run_packager("--version").out.strip() == f"packager, version {version('ollama-packager')}"


def test_a_bug_of_ours_leaves_a_report_and_no_traceback(tmp_path: Path) -> None:
    code = (
        "import packager.cli as c, packager.plan as p\n"
        "def broken(request): raise ZeroDivisionError('planted')\n"
        "p.make_plan = broken\n"
        f"c.main(['plan', 'x', '-o', {str(tmp_path / 'out')!r}])"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    reports = list(tmp_path.glob("packager-bug-*.txt"))
    assert len(reports) == 1
    assert str(reports[0]) in done.stderr
    assert "ZeroDivisionError: planted" in reports[0].read_text()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
def test_interrupted_commands_say_so_and_leave_no_staging(
    number: signal.Signals, code: int, smollm2: Path, smollm2_lora: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    child = subprocess.Popen(
        [sys.executable, "-m", "packager", "build", smollm2, smollm2_lora, "-o", out, "--no-register", "--no-verify"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stderr is not None
    for line in child.stderr:
        if line.startswith("quantize: "):
            break
    child.send_signal(number)
    _, err = child.communicate(timeout=60)
    assert child.returncode == code, err
    assert "Traceback" not in err
    assert not list(out.glob("*.gguf*"))
    assert not list((out / ".packager").rglob("*.partial"))


def test_unreachable_ollama_is_exit_code_10(tmp_path: Path) -> None:
    finished = run_packager("chat", "some-model", "-p", "hi")
    lines = error_lines(finished)
    assert finished.code == 10
    assert lines[1].startswith("hint: ")


def test_what_an_error_speaks_of_stands_between_its_line_and_its_hint(
    tiny: Callable[[str], Path], tiny_lora: Callable[[str], Path], tmp_path: Path
) -> None:
    lora = tmp_path / "lora"
    shutil.copytree(tiny_lora("qwen2.5"), lora)
    (lora / "training_args.yaml").write_text("template: chatml\n")
    finished = run_packager("plan", tiny("qwen2.5"), lora, "-o", tmp_path / "out")
    lines = finished.err.splitlines()
    assert finished.code == 3
    assert lines[0].startswith("error: LLaMA-Factory's template chatml (training_args.yaml) and the base's chat")
    assert "  +You are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\\n" in lines[1:-1]
    assert lines[-1].startswith(
        "hint: Say which one the model was trained with: --template llamafactory:chatml or --template "
    )
    chosen = run_packager("plan", tiny("qwen2.5"), lora, "-o", tmp_path / "out", "--template", "llamafactory:chatml")
    assert "the named template llamafactory:chatml; stops: <|im_end|>" in chosen.out
