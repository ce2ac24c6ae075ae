from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from packager import catalog
from packager.errors import InputInvalid
from packager.formats.modelfile_parser import parse_commands

ROOT = Path(catalog.__file__).resolve().parents[1]
PROBE = {"id": "a-1", "group": "USER", "messages": [{"role": "user", "content": "x"}]}


def write(path: Path, data: object) -> Path:
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The layout of an installed wheel: the tables inside the package, nothing beside it."""
    package = tmp_path / "site-packages" / "packager"
    package.mkdir(parents=True)
    monkeypatch.setattr(catalog, "__file__", str(package / "catalog.py"))
    return package


@pytest.mark.parametrize("name", ["chat_templates", "modelfiles"])
def test_tables_of_a_checkout_are_at_the_top(name: str) -> None:
    assert catalog.table(name) == ROOT / name


def test_tables_of_a_wheel_are_in_the_package(wheel: Path) -> None:
    for name in ("chat_templates", "modelfiles"):
        shutil.copytree(ROOT / name, wheel / "_tables" / name)
    assert catalog.table("modelfiles") == wheel / "_tables" / "modelfiles"
    assert catalog.modelfile_skeleton("Qwen2ForCausalLM").name == "default"
    assert len(catalog.probe_conversations()) == 16


def test_a_wheel_without_tables_is_named(wheel: Path) -> None:
    with pytest.raises(InputInvalid, match=r"modelfiles/ is missing from this installation"):
        catalog.table("modelfiles")


def test_a_table_without_a_default_is_named(wheel: Path) -> None:
    (wheel / "_tables" / "modelfiles").mkdir(parents=True)
    with pytest.raises(InputInvalid, match=r"default\.Modelfile is missing"):
        catalog.modelfile_skeleton("Qwen2ForCausalLM")


def test_an_architecture_gets_its_own_skeleton_where_there_is_one(wheel: Path) -> None:
    folder = wheel / "_tables" / "modelfiles"
    folder.mkdir(parents=True)
    write(folder / "default.Modelfile", "FROM $gguf\n")
    write(folder / "Qwen2ForCausalLM.Modelfile", "FROM $gguf\nPARAMETER top_k 20\n")
    assert catalog.modelfile_skeleton("Qwen2ForCausalLM").text.endswith("top_k 20\n")
    assert catalog.modelfile_skeleton("LlamaForCausalLM").name == "default"


@pytest.mark.parametrize("name", ["../secret", "a/b", "", "x.y"], ids=repr)
def test_an_architecture_is_never_a_path(wheel: Path, name: str) -> None:
    folder = wheel / "_tables" / "modelfiles"
    folder.mkdir(parents=True)
    write(folder / "default.Modelfile", "FROM $gguf\n")
    write(wheel / "_tables" / "secret.Modelfile", "FROM secret\n")
    assert catalog.modelfile_skeleton(name).name == "default"


@pytest.mark.parametrize("path", sorted((ROOT / "modelfiles").glob("*.Modelfile")), ids=lambda path: path.stem)
def test_every_skeleton_reads_as_a_modelfile(path: Path) -> None:
    commands = parse_commands(path.read_text())
    assert commands[0].args == "$gguf"
    assert ("template" in {command.name for command in commands}) == (path.stem == "legacy")


def test_conversations_are_read_in_order(tmp_path: Path) -> None:
    path = write(tmp_path / "p.json", [PROBE, {**PROBE, "id": "b"}])
    found = catalog.parse_conversations(path)
    assert [conversation.id for conversation in found] == ["a-1", "b"]
    assert found[0].messages[0].content == "x"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{", "not JSON"),
        ({}, "expected a list"),
        ([{}], "missing field 'id'"),
        ([{**PROBE, "extra": 1}], "unknown field 'extra'"),
        ([{**PROBE, "messages": [{"role": "user"}]}], "missing field 'content'"),
        ([{**PROBE, "id": "../x"}], "is no id"),
        ([{**PROBE, "id": "A"}], "is no id"),
        ([PROBE, PROBE], "the id 'a-1' appears twice"),
    ],
    ids=["not json", "no list", "no id", "unknown field", "no content", "path", "capital", "twice"],
)
def test_damaged_conversations_are_named(tmp_path: Path, data: object, message: str) -> None:
    path = write(tmp_path / "p.json", data)
    with pytest.raises(InputInvalid, match=message) as caught:
        catalog.parse_conversations(path)
    assert str(path) in caught.value.message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputInvalid, match="no such file"):
        catalog.parse_conversations(tmp_path / "none.json")
