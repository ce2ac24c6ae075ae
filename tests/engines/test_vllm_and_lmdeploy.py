"""vLLM's render server and LMDeploy's prompt code, the real ones, against transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from packager.artifacts import Conversation, Message
from packager.chat.lmdeploy import lmdeploy_form
from packager.chat.probes import core_probes, every_probe, load_probes
from packager.chat.render import Renderer, RenderRefused
from packager.engines.engine import NotSupported
from packager.engines.lmdeploy import Lmdeploy
from packager.engines.lmdeploy_messages import bare_function
from packager.engines.tokenizer import TokenizerReference
from packager.engines.vllm import Vllm
from packager.errors import ToolMissing
from packager.formats.tokenizer import read_tokenizer
from packager.weights.checkpoint_files import write_tokenizer_files
from tests.chat.test_lmdeploy import WITHOUT_ITS_BLANK

ONE_TURN = "{% if messages|length > 1 %}{{ raise_exception('one turn only') }}{% endif %}<{{ messages[0].content }}>"
HELLO = Conversation(id="hello", group="CORE", messages=(Message(role="user", content="Hello, wörld! 你好"),))


@pytest.fixture(scope="module")
def template(tiny: Callable[[str], Path]) -> str:
    text = read_tokenizer(tiny("qwen2.5")).chat_template
    assert text is not None
    return text


@pytest.fixture(scope="module")
def folder(tiny: Callable[[str], Path], template: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("checkpoint")
    write_tokenizer_files(tiny("qwen2.5"), template, output)
    assert not list(output.glob("*.safetensors"))
    return output


@pytest.fixture(scope="module")
def expected(tiny: Callable[[str], Path], template: str) -> dict[str, object]:
    with TokenizerReference(tiny("qwen2.5"), template) as reference:
        return {probe.id: reference.tokens(probe) for probe in every_probe()}


@pytest.fixture(scope="module")
def vllm(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vllm]:
    with Vllm(folder, folder / "chat_template.jinja", tmp_path_factory.mktemp("vllm") / "log") as engine:
        yield engine


def test_vllm_builds_the_ids_of_transformers(vllm: Vllm, expected: dict[str, object]) -> None:
    assert {probe.id: vllm.tokens(probe) for probe in every_probe()} == expected
    assert vllm.version().count(".") >= 2


def test_vllm_takes_the_template_it_is_given_and_tells_its_refusal(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "one.jinja").write_text(ONE_TURN)
    with Vllm(folder, tmp_path / "one.jinja", tmp_path / "log") as engine:
        with TokenizerReference(folder, ONE_TURN) as reference:
            assert engine.tokens(HELLO) == reference.tokens(HELLO)
        refused = engine.tokens(next(probe for probe in core_probes() if len(probe.messages) > 1))
    assert isinstance(refused, NotSupported)
    assert refused.code == "TEMPLATE_ERROR"
    assert "one turn only" in refused.detail


def test_lmdeploy_builds_the_ids_of_transformers_by_jinja(folder: Path, expected: dict[str, object]) -> None:
    with Lmdeploy(folder, None) as engine:
        found = {probe.id: engine.tokens(probe) for probe in every_probe()}
    differing = {"tool-declared", "tool-round-trip", "think-before-tool"}
    assert {name for name, ids in found.items() if ids != expected[name]} == differing


def test_lmdeploy_hands_tools_on_without_their_wrapper(folder: Path, template: str) -> None:
    changed = [replace(probe, tools=tuple(map(bare_function, probe.tools))) for probe in every_probe()]
    with Lmdeploy(folder, None) as engine, TokenizerReference(folder, template) as reference:
        for given, handed_on in zip(every_probe(), changed, strict=True):
            assert engine.render(given) == reference.render(handed_on), given.id


def test_lmdeploy_builds_the_core_ids_from_the_emitted_json(
    folder: Path, template: str, expected: dict[str, object], tmp_path: Path
) -> None:
    tokens = read_tokenizer(folder)
    with Renderer("it", tokens) as renderer:
        form = lmdeploy_form(
            lambda turns: renderer.render(template, turns), load_probes(), stops=("<|im_end|>",), double_bos=False
        )
    assert form.json_text is not None
    (tmp_path / "lmdeploy.json").write_text(form.json_text)
    with Lmdeploy(folder, tmp_path / "lmdeploy.json") as engine:
        assert all(engine.tokens(probe) == expected[probe.id] for probe in core_probes())


def test_lmdeploy_drops_the_blank_behind_the_last_header_where_the_template_does(folder: Path, tmp_path: Path) -> None:
    tokens = read_tokenizer(folder)
    with Renderer("it", tokens) as renderer:

        def render(turns: tuple[Message, ...]) -> str | RenderRefused:
            return renderer.render(WITHOUT_ITS_BLANK, turns)

        form = lmdeploy_form(render, load_probes(), stops=(), double_bos=False)
        (tmp_path / "lmdeploy.json").write_text(form.json_text or "")
        with Lmdeploy(folder, tmp_path / "lmdeploy.json") as engine:
            assert all(engine.render(probe) == render(probe.messages) for probe in load_probes())


def test_lmdeploy_tells_a_refusal_and_goes_on(folder: Path, tmp_path: Path, template: str) -> None:
    refuses_long = "{% if messages|length > 3 %}{{ raise_exception('three at most') }}{% endif %}" + template
    write_tokenizer_files(folder, refuses_long, tmp_path)
    long, short = core_probes()[4], core_probes()[0]
    with Lmdeploy(tmp_path, None) as engine:
        refused, answered = engine.tokens(long), engine.tokens(short)
    assert isinstance(refused, NotSupported)
    assert "three at most" in refused.detail
    assert isinstance(answered, tuple)


def test_an_engine_that_does_not_start_says_why(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with Lmdeploy(tmp_path, None) as engine, pytest.raises(ToolMissing, match=r"LMDeploy does not start: .+"):
        engine.tokens(HELLO)


@pytest.mark.parametrize("name", ["vllm", "lmdeploy"])
def test_an_engine_that_is_not_installed(
    name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PACKAGER_CACHE", str(tmp_path))
    monkeypatch.delenv(f"PACKAGER_{name.upper()}", raising=False)
    with pytest.raises(ToolMissing, match=f"{name} is not installed"):
        Vllm(folder, folder, folder) if name == "vllm" else Lmdeploy(folder, None)
