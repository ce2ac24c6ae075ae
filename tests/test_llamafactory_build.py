"""A yaml, its data and its adapter, made by the real LLaMA-Factory, in one command; scripts/update-llamafactory-goldens."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from packager.artifacts import Conversation, Message
from packager.engines.llama_cpp import Embedded
from tests.run_packager import Finished, run_packager

GOLDENS = Path(__file__).parent / "goldens" / "llamafactory"


@pytest.fixture(scope="module")
def here(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that LLaMA-Factory was run in."""
    folder = tmp_path_factory.mktemp("run")
    shutil.copytree(GOLDENS, folder, dirs_exist_ok=True)
    (folder / "SmolLM2-135M-Instruct").symlink_to(smollm2, target_is_directory=True)
    return folder


@pytest.fixture(scope="module")
def built(here: Path) -> Finished:
    return run_packager("build", "train.yaml", "-o", "out", "--quant", "q8_0", "--no-verify", cwd=here)


def test_one_command_builds_it(built: Finished) -> None:
    assert built.code == 0, built.err
    assert "train.yaml: SmolLM2-135M-Instruct + saves/packy, its template" in built.err


def test_the_prompts_are_those_that_llamafactory_trained_with(here: Path, built: Finished) -> None:
    assert built.code == 0, built.err
    recorded = json.loads((GOLDENS / "prompts.json").read_text(encoding="utf-8"))
    with Embedded(next((here / "out").glob("*.gguf"))) as engine:
        for entry in recorded:
            messages = tuple(Message(role=each["role"], content=each["content"]) for each in entry["messages"])
            assert list(engine.tokens(Conversation(id="recorded", group="USER", messages=messages))) == entry["ids"]
    assert len(recorded) == 6


def test_other_commands_take_the_yaml_too(here: Path) -> None:
    shown = run_packager("template", "show", "export.yaml", "--json", cwd=here)
    assert shown.code == 0, shown.err
    assert "You are Packy, the packaging robot." in json.loads(shown.out)["text"]

    merged = run_packager("merge", "train.yaml", "-o", "merged", cwd=here)
    assert merged.code == 0, merged.err
    assert "Packy" in (here / "merged" / "chat_template.jinja").read_text(encoding="utf-8")

    quantized = run_packager("quantize", "train.yaml", "-o", "other", "--quant", "q8_0", cwd=here)
    assert quantized.code == 0, quantized.err
    (gguf,) = (here / "other").glob("*.gguf")
    assert b"You are Packy, the packaging robot." in gguf.read_bytes()[: 16 << 20]


def test_the_templates_of_two_yamls_are_compared(here: Path) -> None:
    (here / "other.yaml").write_text((here / "export.yaml").read_text().replace("You are Packy", "You are not Packy"))
    same, other = (
        run_packager("template", "diff", "export.yaml", name, cwd=here) for name in ("train.yaml", "other.yaml")
    )
    assert (same.code, other.code) == (0, 5), same.err + other.err
    assert "You are not Packy" in other.out


def test_a_gguf_can_be_compared_with_a_yaml(here: Path, built: Finished) -> None:
    gguf = next((here / "out").glob("*.gguf"))
    checked = run_packager(
        "template", "check", gguf, "--reference", "export.yaml", "--engine", "llama.cpp", "--json", cwd=here
    )
    assert checked.code == 0, checked.err
