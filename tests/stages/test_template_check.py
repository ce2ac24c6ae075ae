"""The proof of a template on the real engines, and with planted mistakes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from packager.artifacts import Outcome, TemplateForm
from packager.chat.probes import core_probes, every_probe, load_probes
from packager.chat.walks import random_walks
from packager.engines.ollama import OllamaServer
from packager.engines.ollama_api import OllamaRefused
from packager.errors import OllamaFailed
from packager.events import Advanced, Event, silent
from packager.formats.checkpoint import read_checkpoint
from packager.parity.template_matrix import TemplateMatrix, TemplateRow
from packager.sources.llama_cpp_tree import LlamaCppTree
from packager.stages.template_check import Column, Served, TemplateCheckJob, check_template
from packager.stages.templates import TemplatesJob, make_template
from tests.chat.samples import CHATML_WITH_DEFAULT
from tests.chat.solvable import DROPS_SYSTEM


@pytest.fixture(scope="module")
def job(tiny: Callable[[str], Path], tree: LlamaCppTree) -> Callable[..., TemplateCheckJob]:
    def make(family: str, template_file: str | None = None) -> TemplateCheckJob:
        found = make_template(
            TemplatesJob(base=read_checkpoint(tiny(family)), adapter=None, template_file=template_file)
        )
        template = found.template
        served = Served(template=template.text, adds_bos=template.adds_bos, lmdeploy=found.lmdeploy.text, go=found.go)
        return TemplateCheckJob(
            folder=tiny(family),
            template=template,
            served=served,
            conversations=every_probe(),
            columns=(Column.LLAMA_CPP, Column.OLLAMA),
            tree=tree,
        )

    return make


@pytest.fixture(scope="module")
def connect(ollama_url: str) -> Callable[[], OllamaServer]:
    return lambda: OllamaServer.connect(ollama_url)


def row(matrix: TemplateMatrix, column: Column) -> TemplateRow:
    return next(each for each in matrix.rows if each.engine == column.value)


@pytest.mark.parametrize("family", ["qwen2.5", "qwen3", "llama3.1"])
def test_llama_cpp_and_ollama_are_equal_on_every_conversation(
    family: str, job: Callable[[str], TemplateCheckJob], connect: Callable[[], OllamaServer]
) -> None:
    steps: list[Event] = []
    matrix = check_template(replace(job(family), conversations=load_probes()), connect, steps.append)
    assert matrix.equal
    assert matrix.losses == ()
    assert [{cell.outcome for cell in each.cells} for each in matrix.rows] == [{Outcome.PASSED}] * 2
    assert row(matrix, Column.OLLAMA).version == connect().version
    assert matrix.reference.startswith("transformers ")
    last = steps[-1]
    assert isinstance(last, Advanced)
    assert len(steps) == last.done == last.total == 3 * len(load_probes())


def test_system_messages_that_training_dropped_are_not_merged_into_the_user_s(
    job: Callable[..., TemplateCheckJob], connect: Callable[[], OllamaServer], tmp_path: Path
) -> None:
    (tmp_path / "drops.jinja").write_text(DROPS_SYSTEM)
    canonical = replace(
        job("qwen2.5", str(tmp_path / "drops.jinja")), columns=(Column.OLLAMA,), conversations=load_probes()
    )
    assert [pin.name for pin in canonical.template.pins] == ["messages"]
    found = row(check_template(canonical, connect, silent), Column.OLLAMA)
    assert {cell.outcome for cell in found.cells} == {Outcome.PASSED}
    unread = "{#- " + "no pin, and long enough not to be taken for a known template " * 3 + "-#}" + DROPS_SYSTEM
    found = row(check_template(replace(canonical, served=Served(template=unread)), connect, silent), Column.OLLAMA)
    codes = {cell.conversation: cell.code for cell in found.cells if cell.outcome is Outcome.FAILED}
    assert codes["system-user"] == "SYS_MERGE"
    assert "user" not in codes


EQUAL, IGNORED = "", "IGNORED"
SPECIAL = every_probe()[len(load_probes()) :]


def special_codes(each: TemplateRow) -> tuple[str, ...]:
    return tuple(cell.code for cell in each.cells if cell.group in ("TOOLS", "THINK"))


@pytest.mark.parametrize(
    ("family", "llama_cpp", "ollama"),
    [
        ("qwen2.5", (EQUAL, EQUAL, IGNORED, IGNORED), ("TOOLJSON", EQUAL, IGNORED, IGNORED)),
        ("qwen3", (EQUAL, EQUAL, IGNORED, EQUAL), ("TOOLJSON", EQUAL, IGNORED, "THINKING")),
        ("llama3.1", (IGNORED,) * 4, ("NO_TOOLS", "NO_TOOLS", IGNORED, "NO_TOOLS")),
    ],
    ids=["qwen2.5", "qwen3", "llama3.1"],
)
def test_what_becomes_of_tools_and_reasoning(
    family: str,
    llama_cpp: tuple[str, ...],
    ollama: tuple[str, ...],
    job: Callable[[str], TemplateCheckJob],
    connect: Callable[[], OllamaServer],
) -> None:
    columns = (Column.LLAMA_CPP, Column.OLLAMA, Column.OLLAMA_GO)
    matrix = check_template(replace(job(family), conversations=SPECIAL, columns=columns), connect, silent)
    for column, codes in zip(columns, (llama_cpp, ollama, ("NO_TOOLS", "NO_TOOLS", IGNORED, "NO_TOOLS")), strict=True):
        cells = row(matrix, column).cells
        assert tuple(cell.code for cell in cells) == codes
        outcomes = {EQUAL: Outcome.PASSED, IGNORED: Outcome.NOT_CHECKED}
        assert [cell.outcome for cell in cells] == [outcomes.get(code, Outcome.FAILED) for code in codes]
    assert not matrix.equal  # no CORE conversation was among them
    assert "ollama-go: no tools (NO_TOOLS): tool-declared, tool-round-trip, think-before-tool" in matrix.losses


def test_every_engine(job: Callable[[str], TemplateCheckJob], connect: Callable[[], OllamaServer]) -> None:
    everything = replace(job("qwen2.5"), columns=tuple(Column), conversations=(*core_probes(), *SPECIAL))
    matrix = check_template(everything, connect, silent)
    assert [each.not_checked for each in matrix.rows] == [""] * len(Column)
    assert {cell.outcome for each in matrix.rows for cell in each.cells if cell.group == "CORE"} == {Outcome.PASSED}
    assert special_codes(row(matrix, Column.VLLM)) == (EQUAL, EQUAL, IGNORED, IGNORED)
    assert special_codes(row(matrix, Column.LMDEPLOY)) == ("NO_TOOLS", "NO_TOOLS", IGNORED, "NO_TOOLS")
    assert "lmdeploy: no tools (NO_TOOLS): tool-declared, tool-round-trip, think-before-tool" in matrix.losses
    assert row(matrix, Column.LMDEPLOY).version.endswith("with lmdeploy.json")


def test_engines_that_know_tools_by_jinja(
    job: Callable[[str], TemplateCheckJob], connect: Callable[[], OllamaServer]
) -> None:
    asked = replace(job("qwen3"), columns=(Column.VLLM, Column.LMDEPLOY), conversations=SPECIAL)
    matrix = check_template(asked, connect, silent)
    assert special_codes(row(matrix, Column.VLLM)) == (EQUAL, EQUAL, IGNORED, EQUAL)
    assert special_codes(row(matrix, Column.LMDEPLOY)) == ("TOOLJSON", "TOOLJSON", IGNORED, "TOOLJSON")
    assert row(matrix, Column.LMDEPLOY).version.endswith("with hf")


WRITES_REASONING = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m.reasoning_content %}{{ '<think>' + m.reasoning_content + '</think>' }}{% endif %}"
    "{{ m['content'] + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def test_reasoning_that_a_template_writes_into_the_history(
    tiny: Callable[[str], Path],
    tmp_path: Path,
    job: Callable[[str], TemplateCheckJob],
    connect: Callable[[], OllamaServer],
) -> None:
    (tmp_path / "thinks.jinja").write_text(WRITES_REASONING)
    found = make_template(
        TemplatesJob(base=read_checkpoint(tiny("qwen2.5")), adapter=None, template_file=str(tmp_path / "thinks.jinja"))
    )
    asked = replace(
        job("qwen2.5"),
        template=found.template,
        served=Served(template=found.template.text, adds_bos=False, go=found.go, lmdeploy=found.lmdeploy.text),
        conversations=tuple(probe for probe in SPECIAL if probe.id == "think-separate"),
        columns=(Column.LLAMA_CPP, Column.OLLAMA, Column.OLLAMA_GO, Column.LMDEPLOY),
    )
    matrix = check_template(asked, connect, silent)
    assert row(matrix, Column.LMDEPLOY).version.endswith("with lmdeploy.json")
    assert [special_codes(each) for each in matrix.rows] == [(EQUAL,), ("THINKING",), ("THINKING",), ("THINKING",)]
    assert "ollama: reasoning of earlier answers is dropped (THINKING): think-separate" in matrix.losses


def test_another_template_in_the_engines_is_seen_on_each_of_them(
    job: Callable[[str], TemplateCheckJob], connect: Callable[[], OllamaServer]
) -> None:
    right = job("qwen2.5")
    wrong = replace(right, served=Served(template=right.template.text.replace("You are Qwen", "You are Qwenn")))
    for each in check_template(wrong, connect, silent).rows:
        cells = {cell.conversation: cell for cell in each.cells}
        assert cells["user"].outcome is Outcome.FAILED
        assert "Qwenn" in cells["user"].detail
        assert cells["system-user"].outcome is Outcome.PASSED


def test_a_lost_bos_has_its_code(job: Callable[[str], TemplateCheckJob], connect: Callable[[], OllamaServer]) -> None:
    right = job("llama3.1")
    without = replace(
        right, served=replace(right.served, template=right.template.text.replace("bos_token + content", "content"))
    )
    assert without.served != right.served
    matrix = check_template(replace(without, columns=(Column.LLAMA_CPP,)), connect, silent)
    assert {cell.code for cell in row(matrix, Column.LLAMA_CPP).cells} == {"BOS_LOST"}


def test_an_ollama_that_does_not_answer_is_not_checked(job: Callable[[str], TemplateCheckJob]) -> None:
    def absent() -> OllamaServer:
        raise OllamaFailed("no Ollama answers here")

    matrix = check_template(job("qwen2.5"), absent, silent)
    assert matrix.equal
    assert row(matrix, Column.OLLAMA) == TemplateRow(engine="ollama", version="", not_checked="no Ollama answers here")


def test_what_the_json_of_lmdeploy_does_not_hold_for_has_its_code(
    job: Callable[[str], TemplateCheckJob], tmp_path: Path
) -> None:
    later = "{% if m['role'] == 'system' and not loop.first %}(system, later){% endif %}"
    (tmp_path / "own.jinja").write_text(CHATML_WITH_DEFAULT.replace("{% endif %}", "{% endif %}" + later, 1))
    base = read_checkpoint(job("qwen2.5").folder)
    found = make_template(TemplatesJob(base=base, adapter=None, template_file=str(tmp_path / "own.jinja")))
    served = Served(template=found.template.text, lmdeploy=found.lmdeploy.text)
    asked = replace(job("qwen2.5"), template=found.template, served=served, columns=(Column.LMDEPLOY,))
    asked = replace(asked, conversations=load_probes())
    cells = row(check_template(asked, lambda: pytest.fail("not asked"), silent), Column.LMDEPLOY).cells
    assert {cell.conversation: cell.code for cell in cells if cell.code} == {"system-in-the-middle": "ROLES"}


def test_what_llama_cpp_cannot_read_is_not_checked_there_and_checked_elsewhere(
    job: Callable[[str], TemplateCheckJob], tmp_path: Path
) -> None:
    shutil.copytree(job("qwen2.5").folder, tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    (tmp_path / "base" / "config.json").write_text(json.dumps({**config, "architectures": ["UnheardOfForCausalLM"]}))
    text = replace(job("qwen2.5"), conversations=load_probes())
    unknown = replace(text, folder=tmp_path / "base", columns=(Column.LLAMA_CPP, Column.LMDEPLOY))
    matrix = check_template(unknown, lambda: pytest.fail("not asked"), silent)
    assert "UnheardOfForCausalLM" in row(matrix, Column.LLAMA_CPP).not_checked
    assert {cell.outcome for cell in row(matrix, Column.LMDEPLOY).cells} == {Outcome.PASSED}


def test_an_ollama_that_refuses_the_model_has_failed(job: Callable[[str], TemplateCheckJob]) -> None:
    def refusing() -> OllamaServer:
        raise OllamaRefused("Ollama refused: unsupported", status=400)

    matrix = check_template(job("qwen2.5"), refusing, silent)
    assert not matrix.equal
    assert {(cell.outcome, cell.code) for cell in row(matrix, Column.OLLAMA).cells} == {(Outcome.FAILED, "REFUSED")}


def test_random_conversations_find_where_tokenizers_differ(
    job: Callable[[str], TemplateCheckJob], connect: Callable[[], OllamaServer]
) -> None:
    walks = replace(job("qwen2.5"), columns=(Column.LLAMA_CPP,), conversations=random_walks(60, 0))
    found = row(check_template(walks, connect, silent), Column.LLAMA_CPP)
    decomposed = {walk.id for walk in walks.conversations if any("e\u0301" in turn.content for turn in walk.messages)}
    by_code = {cell.conversation for cell in found.cells if cell.code == "NFC"}
    assert by_code
    assert by_code <= decomposed
    assert {cell.code for cell in found.cells} <= {"", "NFC", "TOKENIZER"}


def test_what_the_go_form_does_not_hold_for_has_its_codes(
    job: Callable[[str], TemplateCheckJob], connect: Callable[[], OllamaServer]
) -> None:
    found = row(check_template(replace(job("qwen3"), columns=(Column.OLLAMA_GO,)), connect, silent), Column.OLLAMA_GO)
    codes = {cell.conversation: cell.code for cell in found.cells if cell.outcome is Outcome.FAILED}
    refused = dict.fromkeys(("tool-declared", "tool-round-trip", "think-before-tool"), "NO_TOOLS")
    odd = {"two-users": "COLLATE", "system-in-the-middle": "ROLES", "think-in-history": "CONTENT"}
    assert codes == odd | refused


@pytest.mark.parametrize(
    ("go", "reason"),
    [
        (None, "only a checkpoint's template has a Go form"),
        (
            TemplateForm(text=None, code="POSITION", reason="rounds are numbered"),
            "POSITION: there is no Go form, rounds are",
        ),
    ],
    ids=["not asked for", "none"],
)
def test_without_a_go_form_its_column_is_not_checked(
    go: TemplateForm | None, reason: str, job: Callable[[str], TemplateCheckJob], connect: Callable[[], OllamaServer]
) -> None:
    right = job("qwen2.5")
    without = replace(right, served=replace(right.served, go=go), columns=(Column.LLAMA_CPP, Column.OLLAMA_GO))
    found = row(check_template(without, connect, silent), Column.OLLAMA_GO)
    assert found.cells == ()
    assert found.not_checked.startswith(reason)
