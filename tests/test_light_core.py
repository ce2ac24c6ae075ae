"""Reading files, registering and chatting through Ollama need neither torch nor a compiler."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HEAVY = (
    "numpy",
    "torch",
    "transformers",
    "peft",
    "llama_cpp",
    "gguf",
    "tokenizers",
    "safetensors",
    "sentencepiece",
    "yaml",
)
BLOCK = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""


def without_heavy(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process where the packages of the build extra cannot be imported."""
    return subprocess.run([sys.executable, "-c", BLOCK + code], capture_output=True, text=True, check=False)


def test_the_block_works() -> None:
    assert "No module named 'torch'" in without_heavy("import torch").stderr


@pytest.mark.parametrize(
    "module",
    [
        "packager.cli",
        "packager.console",
        "packager.pipeline",
        "packager.single_stages",
        "packager.template_proofs",
        "packager.doctor.diagnosis",
        "packager.demo",
        "packager.evaluation.run",
        "packager.commands.chat",
        "packager.engines.ollama",
        "packager.engines.ollama_chat",
        "packager.stages.register",
        "packager.report_page.page",
        "packager.chat.render",
        "packager.formats.gguf",
    ],
)
def test_a_module_imports_without_them(module: str) -> None:
    done = without_heavy(f"import {module}")
    assert done.returncode == 0, done.stderr


def test_a_checkpoint_and_its_template_are_read_without_them(tiny: Callable[[str], Path]) -> None:
    done = without_heavy(
        "from pathlib import Path\n"
        "from packager.formats.checkpoint import read_checkpoint\n"
        "from packager.stages.templates import TemplatesJob, make_template\n"
        f"base = read_checkpoint(Path({str(tiny('qwen2.5'))!r}))\n"
        "print(make_template(TemplatesJob(base=base, adapter=None, template_file=None)).template.stops)\n"
    )
    assert done.returncode == 0, done.stderr
    assert "<|im_end|>" in done.stdout


def test_chatting_with_nobody_is_one_line_and_not_a_missing_package() -> None:
    code = "import os; os.environ['OLLAMA_HOST'] = '127.0.0.1:9'\nfrom packager.cli import main\n"
    done = without_heavy(code + "main(['chat', 'packy', '-p', 'Hi'])")
    assert done.returncode == 10, done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_a_build_says_what_is_missing(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    code = "from packager.cli import main\n"
    done = without_heavy(code + f"main(['quantize', {str(tiny('qwen2.5'))!r}, '-o', {str(tmp_path / 'out')!r}])")
    assert done.returncode == 9, done.stderr
    assert "Traceback" not in done.stderr
    assert "hint: " in done.stderr
