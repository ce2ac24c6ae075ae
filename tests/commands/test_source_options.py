"""What a command gets in place of what was typed for its models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from packager.commands import options, source_options
from packager.errors import PackagerError, Unsupported, Usage
from packager.formats.reference_name import ReferenceName
from tests.formats.tiny_folders import write_adapter, write_base
from tests.sources.test_trainer_output import write_run

Got = dict[str, Any]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base, two adapters, a trainer's output, and yaml files that name them."""
    write_base(tmp_path / "base")
    write_adapter(tmp_path / "one")
    write_adapter(tmp_path / "two")
    write_run(tmp_path / "run", 4, 8)
    text = "model_name_or_path: base\ntemplate: qwen\nadapter_name_or_path: "
    (tmp_path / "one.yaml").write_text(text + "one\n")
    (tmp_path / "both.yaml").write_text(text + "one,two\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command: click.Command, *arguments: str) -> Result:
    result = CliRunner().invoke(command, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def got() -> Got:
    """What the command was called with."""
    return {}


@pytest.fixture
def build(got: Got) -> click.Command:
    @click.command()
    @options.base
    @options.adapter
    @options.template
    @source_options.sources
    def command(**arguments: object) -> None:
        got.update(arguments)

    return command


def test_a_command_gets_the_folders_and_the_template_of_a_yaml(here: Path, build: click.Command, got: Got) -> None:
    run(build, "one.yaml")
    assert got == {"base": Path("base"), "adapter": Path("one"), "template_file": "one.yaml"}


@pytest.mark.parametrize(
    "typed",
    [
        pytest.param(["./nosuch/base"], id="base"),
        pytest.param(["nosuch/base/"], id="with a slash behind it"),
        pytest.param(["base", "./nosuch/lora"], id="adapter"),
    ],
)
def test_what_is_written_as_a_path_is_asked_of_no_hub(
    here: Path, build: click.Command, got: Got, typed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("packager.sources.hub.fetch", lambda *_, **__: pytest.fail("a hub was asked"))
    run(build, *typed)
    assert here / typed[-1] in got.values()


def test_a_checkpoint_is_chosen_by_an_option(here: Path, build: click.Command, got: Got) -> None:
    run(build, "base", "run", "--checkpoint", "4")
    assert got == {"base": Path("base"), "adapter": Path("run/checkpoint-4"), "template_file": None}


@pytest.mark.parametrize("word", ["oldest", "-1", "4.5", ""])
def test_a_checkpoint_is_a_number_or_one_of_two_words(here: Path, build: click.Command, word: str) -> None:
    result = run(build, "base", "run", "--checkpoint", word)
    assert result.exit_code == 2
    assert "is not a number, best or newest" in result.output


def test_a_command_that_knows_more_adapters_gets_them_in_order(here: Path, got: Got) -> None:
    @click.command()
    @options.base
    @options.adapter
    @click.option("--adapter", "more_adapters", multiple=True, type=click.Path(path_type=Path))
    @source_options.sources
    def command(**arguments: object) -> None:
        got.update(arguments)

    run(command, "both.yaml")
    assert (got["adapter"], got["more_adapters"]) == (Path("one"), (Path("two"),))
    run(command, "base", "two", "--adapter", "one")
    assert (got["adapter"], got["more_adapters"]) == (Path("two"), (Path("one"),))


def test_a_command_that_knows_one_adapter_refuses_a_second_by_name(here: Path, build: click.Command) -> None:
    with pytest.raises(Unsupported, match="two: a second adapter, after one"):
        run(build, "both.yaml")


def test_a_command_that_knows_further_adapters_only_gets_all_of_them(here: Path, got: Got) -> None:
    @click.command()
    @click.argument("source", type=click.Path(path_type=Path))
    @click.option("--adapter", "more_adapters", multiple=True, type=click.Path(path_type=Path))
    @source_options.checkpoint_source
    def command(**arguments: object) -> None:
        got.update(arguments)

    run(command, "both.yaml")
    assert (got["source"], got["more_adapters"]) == (Path("base"), (Path("one"), Path("two")))


def test_a_command_of_whole_models_refuses_an_adapter(here: Path) -> None:
    @click.command()
    @click.argument("source", type=click.Path(path_type=Path))
    @source_options.checkpoint_source
    def command(**arguments: object) -> None:
        pytest.fail("it was called")

    with pytest.raises(Usage, match="one is an adapter"):
        run(command, "one.yaml")


@pytest.fixture
def doctor(got: Got) -> click.Command:
    @click.command()
    @click.option("--reference")
    @click.option("--adapter", type=click.Path(path_type=Path))
    @options.template
    @source_options.reference
    def command(**arguments: object) -> None:
        got.update(arguments)

    return command


@pytest.mark.parametrize(
    ("arguments", "reference", "template"),
    [
        pytest.param([], None, None, id="none"),
        pytest.param(["--reference", "base"], ReferenceName(base=Path("base")), None, id="a base"),
        pytest.param(
            ["--reference", "base+one"], ReferenceName(base=Path("base"), adapter=Path("one")), None, id="with its adapter"
        ),
        pytest.param(
            ["--reference", "base", "--adapter", "run"],
            ReferenceName(base=Path("base"), adapter=Path("run/checkpoint-8")), None, id="with an adapter apart",
        ),
        pytest.param(
            ["--reference", "one.yaml"], ReferenceName(base=Path("base"), adapter=Path("one")), "one.yaml", id="a yaml"
        ),
        pytest.param(
            ["--reference", "one.yaml", "--template", "chatml"],
            ReferenceName(base=Path("base"), adapter=Path("one")), "chatml", id="a yaml and another template",
        ),
    ],
)  # fmt: skip
def test_a_reference_becomes_folders(
    here: Path,
    doctor: click.Command,
    got: Got,
    arguments: list[str],
    reference: ReferenceName | None,
    template: str | None,
) -> None:
    run(doctor, *arguments)
    assert (got["reference"], got["template_file"]) == (reference, template)


def test_two_adapters_of_a_reference_are_refused(here: Path, doctor: click.Command) -> None:
    with pytest.raises(PackagerError, match="name two adapters"):
        run(doctor, "--reference", "base+one", "--adapter", "two")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param(["one.yaml"], ("base", Path("one"), None), id="a yaml"),
        pytest.param(["base", "run"], ("base", Path("run/checkpoint-8"), None), id="folders"),
        pytest.param(["my/model"], ("my/model", None, None), id="a model in Ollama"),
        pytest.param(["my-model", "--reference", "one.yaml"], ("my-model", Path("one"), Path("base")), id="and a reference"),
    ],
)  # fmt: skip
def test_a_subject_is_read_where_it_is_a_checkpoint(
    here: Path, got: Got, arguments: list[str], expected: tuple[object, ...]
) -> None:
    @click.command()
    @options.model
    @options.adapter
    @options.template
    @click.option("--reference", type=click.Path(path_type=Path))
    @source_options.subject
    def command(**arguments: object) -> None:
        got.update(arguments)

    run(command, *arguments)

    assert (got["model"], got["adapter"], got["reference"]) == expected


@pytest.mark.parametrize("command", ["build", "plan", "merge", "verify", "quantize", "modelfile", "doctor", "eval"])
def test_every_command_that_reads_a_model_has_the_options(command: str) -> None:
    from packager.cli import packager

    found = packager.get_command(click.Context(packager), command)
    assert found is not None
    assert {"checkpoint", "allow_pickle"} <= {parameter.name for parameter in found.params}


def test_what_a_function_is_called_is_kept() -> None:
    def merge(base: Path) -> None:
        """Merge."""

    wrapped: Callable[..., object] = source_options.sources(merge)
    assert (wrapped.__name__, wrapped.__doc__) == ("merge", "Merge.")
