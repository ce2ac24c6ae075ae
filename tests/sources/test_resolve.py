"""Every form of BASE and ADAPTER, as folders."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from packager.errors import InputInvalid, PackagerError, Usage
from packager.events import Event, Noted
from packager.formats.adapter import read_adapter
from packager.formats.checkpoint import read_checkpoint
from packager.sources import hub as hub_module
from packager.sources.hub import Fetched
from packager.sources.resolve import Sources, Typed, resolve
from tests.formats.tiny_folders import write_adapter, write_base
from tests.hub_server import HubServer
from tests.sources.test_trainer_output import write_run

GOLDENS = Path(__file__).parent.parent / "goldens" / "llamafactory"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, where LLaMA-Factory was run: a base and what training left."""
    shutil.copytree(GOLDENS, tmp_path, dirs_exist_ok=True)
    write_base(tmp_path / "SmolLM2-135M-Instruct")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The ids that a hub was asked for; it gives a base for each."""
    asked: list[str] = []

    def fetch(text: str, *, emit: object = None) -> Fetched:
        asked.append(text)
        return Fetched(folder=write_base(tmp_path / "from-hub"), files=(), revision="a" * 40, source=text)

    monkeypatch.setattr(hub_module, "fetch", fetch)
    return asked


def notes_of(typed: Typed) -> tuple[Sources, list[str]]:
    events: list[Event] = []
    found = resolve(typed, emit=events.append)
    return found, [event.text for event in events if isinstance(event, Noted)]


def test_folders_stay_what_they_are(tmp_path: Path) -> None:
    base, lora = write_base(tmp_path / "base"), write_adapter(tmp_path / "lora")

    found, notes = notes_of(Typed(base=base, adapters=(lora,), template="chatml"))

    assert found == Sources(base=base, adapters=(lora,), template="chatml")
    assert notes == []


@pytest.mark.parametrize("name", ["train.yaml", "export.yaml"])
def test_a_llamafactory_yaml_names_everything(here: Path, name: str) -> None:
    found, notes = notes_of(Typed(base=Path(name)))

    assert found == Sources(base=Path("SmolLM2-135M-Instruct"), adapters=(Path("saves/packy"),), template=name)
    assert notes[0] == f"{name}: SmolLM2-135M-Instruct + saves/packy, its template"
    assert len(notes) == (2 if name == "train.yaml" else 1)


def test_the_users_template_comes_before_the_yamls(here: Path) -> None:
    assert resolve(Typed(base=Path("train.yaml"), template="qwen")).template == "qwen"


def test_a_yaml_without_a_template_means_the_bases(here: Path) -> None:
    lines = [line for line in Path("train.yaml").read_text().splitlines() if not line.startswith("template:")]
    Path("train.yaml").write_text("\n".join(lines))

    found, notes = notes_of(Typed(base=Path("train.yaml")))

    assert found.template is None
    assert "the base's template" in notes[0]


def test_a_full_fine_tune_is_the_output_folder(here: Path) -> None:
    write_run(here / "full", 4, 8, adapter=False)
    text = Path("train.yaml").read_text().replace("finetuning_type: lora", "finetuning_type: full")
    Path("train.yaml").write_text(text.replace("saves/packy", "full"))

    found = resolve(Typed(base=Path("train.yaml")))

    assert found == Sources(base=Path("full/checkpoint-8"), adapters=(), template="train.yaml")


def test_adapters_stay_in_order_and_the_checkpoint_is_of_the_last(here: Path) -> None:
    write_run(here / "dpo", 4, 8)
    write_run(here / "sft", 2, 6)
    Path("a.yaml").write_text("model_name_or_path: SmolLM2-135M-Instruct\nadapter_name_or_path: sft,dpo\n")

    found = resolve(Typed(base=Path("a.yaml"), checkpoint="4"))

    assert found.adapters == (Path("sft/checkpoint-6"), Path("dpo/checkpoint-4"))


def test_a_checkpoint_of_a_full_fine_tune_can_be_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 4, 8, adapter=False)
    assert resolve(Typed(base=run, checkpoint="4")).base == run / "checkpoint-4"


@pytest.mark.parametrize(
    ("typed", "asked"),
    [
        pytest.param("hf:Qwen/Qwen2.5-0.5B@main", "hf:Qwen/Qwen2.5-0.5B@main", id="with the hub's name"),
        pytest.param("ms:Qwen/Qwen2.5-0.5B", "ms:Qwen/Qwen2.5-0.5B", id="ModelScope"),
        pytest.param("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B", id="bare"),
    ],
)
def test_a_hubs_id_is_fetched(tmp_path: Path, fetched: list[str], typed: str, asked: str) -> None:
    assert resolve(Typed(base=Path(typed))).base == tmp_path / "from-hub"
    assert fetched == [asked]


@pytest.mark.parametrize(
    ("environment", "lines", "asked"),
    [
        pytest.param("0", "", "Qwen/Qwen2.5-0.5B", id="Hugging Face"),
        pytest.param("true", "", "ms:Qwen/Qwen2.5-0.5B", id="ModelScope"),
        pytest.param("0", "model_revision: main\n", "Qwen/Qwen2.5-0.5B", id="the usual revision"),
        pytest.param("0", "model_revision: v1\n", "Qwen/Qwen2.5-0.5B@v1", id="a revision"),
    ],
)
def test_a_yaml_can_name_a_base_on_a_hub(
    here: Path, fetched: list[str], monkeypatch: pytest.MonkeyPatch, environment: str, lines: str, asked: str
) -> None:
    monkeypatch.setenv("USE_MODELSCOPE_HUB", environment)
    Path("a.yaml").write_text("model_name_or_path: Qwen/Qwen2.5-0.5B\n" + lines)

    resolve(Typed(base=Path("a.yaml")))

    assert fetched == [asked]


def test_base_and_adapter_come_from_a_hub_that_speaks_the_protocol(here: Path, hub: HubServer) -> None:
    pushed = {"org/packy": here / "SmolLM2-135M-Instruct", "org/packy-lora": write_adapter(here / "lora")}
    for name, folder in pushed.items():
        hub.push(name, {path.name: path.read_bytes() for path in folder.iterdir()})
    Path("a.yaml").write_text("model_name_or_path: org/packy\nadapter_name_or_path: org/packy-lora\n")

    found = resolve(Typed(base=Path("a.yaml")))

    base = read_checkpoint(found.base)
    adapter = read_adapter(found.adapters[0], base)
    assert (base.name, adapter.name) == ("packy", "packy-lora")


def _elsewhere(here: Path, monkeypatch: pytest.MonkeyPatch) -> Typed:
    (here / "below").mkdir()
    monkeypatch.chdir(here / "below")
    return Typed(base=Path("../train.yaml"))


def _output_gone(here: Path, monkeypatch: pytest.MonkeyPatch) -> Typed:
    shutil.rmtree(here / "saves")
    return Typed(base=Path("train.yaml"))


def _two_sayings(here: Path, monkeypatch: pytest.MonkeyPatch) -> Typed:
    return Typed(base=Path("train.yaml"), adapters=(Path("saves/packy"),))


def _yaml_as_adapter(here: Path, monkeypatch: pytest.MonkeyPatch) -> Typed:
    return Typed(base=Path("SmolLM2-135M-Instruct"), adapters=(Path("train.yaml"),))


def _no_yaml(here: Path, monkeypatch: pytest.MonkeyPatch) -> Typed:
    return Typed(base=Path("below/none.yaml"))


@pytest.mark.parametrize(
    ("spoil", "kind", "message", "hint"),
    [
        pytest.param(_elsewhere, InputInvalid, "not in the current folder but in", "cd ", id="run elsewhere"),
        pytest.param(_output_gone, InputInvalid, "output_dir is saves/packy: no such folder", "BASE and ADAPTER", id="gone"),
        pytest.param(_two_sayings, Usage, "and saves/packy is one more", "Leave saves/packy out", id="an adapter as well"),
        pytest.param(_yaml_as_adapter, InputInvalid, "expected an adapter", "packager build train.yaml", id="as adapter"),
        pytest.param(_no_yaml, InputInvalid, "below/none.yaml: no such file", "Check the path", id="missing, and no hub's id"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_told_with_a_way_out(
    here: Path, monkeypatch: pytest.MonkeyPatch, spoil: object, kind: type[PackagerError], message: str, hint: str
) -> None:
    typed = spoil(here, monkeypatch)  # type: ignore[operator]

    with pytest.raises(kind, match=message) as refused:
        resolve(typed)

    assert hint in refused.value.hint
