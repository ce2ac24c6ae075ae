"""What is found under MODEL and under --reference, and what its subject depends on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from packager.artifacts import Gguf, Quant
from packager.durable import FileDigest, sha256_file
from packager.errors import InputInvalid, OllamaFailed, PackagerError, Usage
from packager.evaluation.sides import SideName, packaged_side, reference_side
from packager.events import Event, Noted, silent
from packager.formats.reference_name import ReferenceName
from tests.engines.ollama_faults import SHOW, Fault, faulty


def digests(files: tuple[Path, ...]) -> tuple[FileDigest, ...]:
    return tuple(FileDigest(sha256=sha256_file(path), name=path.name, size_bytes=path.stat().st_size) for path in files)


def found(model: object, quant: Quant | None = None) -> Any:
    return packaged_side(str(model), quant, digests=digests, emit=silent)


def reference(base: Path, adapter: Path | None = None, template: str | None = None, **changes: Any) -> Any:
    settings: dict[str, Any] = {"memory_bytes": None, "passes": 1, "digests": digests, "emit": silent} | changes
    return reference_side(ReferenceName(base=base, adapter=adapter), template, **settings)


def served(monkeypatch: pytest.MonkeyPatch, model: str, quant: Quant | None = None, **shown: object) -> Any:
    fault = Fault(replies={"/api/show": (200, SHOW | shown)})
    with faulty(fault) as url:
        monkeypatch.setenv("OLLAMA_HOST", url)
        return found(model, quant)


def test_a_file_is_run_in_this_process(chat_gguf: Gguf) -> None:
    side = found(chat_gguf.path)

    assert (side.name, side.engine.name) == (SideName.PACKAGED, "llama.cpp")
    assert side.subject.name == chat_gguf.path.name
    assert side.subject.weights_sha256 == chat_gguf.sha256
    assert side.subject.engine.startswith("llama.cpp 0.")


def test_a_folder_s_file_is_chosen_by_its_quant(tmp_path: Path) -> None:
    for name in ("a-Q4_K_M.gguf", "a-Q8_0.gguf"):
        (tmp_path / name).write_text(name)

    assert found(tmp_path, Quant.Q8_0).subject.name == "a-Q8_0.gguf"
    with pytest.raises(Usage) as caught:
        found(tmp_path)
    assert caught.value.hint == f"Name one: packager eval {tmp_path / 'a-Q4_K_M.gguf'}"


def test_stops_and_context_of_the_modelfile_are_settings(tmp_path: Path) -> None:
    gguf = tmp_path / "a.gguf"
    gguf.write_text("a")
    subjects = {found(gguf).subject}
    for parameters in ("stop x", "stop y", "num_ctx 512"):
        (tmp_path / "Modelfile").write_text(f"FROM a.gguf\nPARAMETER {parameters}\n")
        subjects.add(found(gguf).subject)

    assert len({subject.settings_sha256 for subject in subjects}) == 4
    assert len({subject.weights_sha256 for subject in subjects}) == 1


def test_a_model_in_ollama_is_its_weights_and_everything_stored_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = served(monkeypatch, "packy").subject
    with_stop = served(monkeypatch, "packy", parameters='stop                           "x"').subject
    renamed = served(monkeypatch, "packy", Quant.Q8_0).subject

    assert (plain.name, plain.engine, plain.weights_sha256) == ("packy:latest", "ollama 0.34.0", "a" * 64)
    assert with_stop.settings_sha256 != plain.settings_sha256
    assert renamed.name == "packy:q8_0"
    assert renamed.settings_sha256 == plain.settings_sha256


def test_a_reference_is_its_files_and_its_template(
    tiny: Callable[[str], Path], tiny_lora: Callable[[str], Path]
) -> None:
    base, adapter = tiny("qwen2.5"), tiny_lora("qwen2.5")

    both = reference(base, adapter)
    alone = reference(base)
    other = reference(base, template="llamafactory:chatml")

    assert (both.name, both.subject.name) == (SideName.REFERENCE, f"{base.name}+{adapter.name}")
    assert both.subject.engine.startswith("transformers ")
    assert both.subject.weights_sha256 != alone.subject.weights_sha256
    assert alone.subject.weights_sha256 == other.subject.weights_sha256
    assert alone.subject.settings_sha256 != other.subject.settings_sha256


def test_a_changed_file_of_the_reference_is_noticed(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    base = shutil.copytree(tiny("qwen2.5"), tmp_path / "base")
    before = reference(base).subject
    with (base / "config.json").open("a") as file:
        file.write("\n")

    assert reference(base).subject.weights_sha256 != before.weights_sha256


def test_a_reference_that_is_larger_than_memory_tells_its_cost(tiny: Callable[[str], Path]) -> None:
    events: list[Event] = []

    side = reference(tiny("qwen2.5"), memory_bytes=1_000_000, passes=24, emit=events.append)

    assert reference(tiny("qwen2.5"), memory_bytes=1 << 40).engine.offload is None
    assert side.engine.offload is not None
    (told,) = events
    assert isinstance(told, Noted)
    assert told.text == side.engine.offload.cost(24)


@pytest.mark.parametrize(
    ("model", "quant", "error", "message"),
    [
        pytest.param("./none", None, InputInvalid, "./none: no such folder", id="no folder"),
        pytest.param("/none/at/all", None, InputInvalid, "/none/at/all: no such folder", id="no absolute folder"),
        pytest.param("none.gguf", None, InputInvalid, "none.gguf: No such file or directory", id="no file"),
        pytest.param(
            "x.gguf", Quant.F16, Usage, "x.gguf is one file, and --quant f16 chooses", id="a file and a quant"
        ),
        pytest.param("a b", None, Usage, "'a b' is no name for a model in Ollama", id="no name"),
        pytest.param("packy", None, OllamaFailed, "no Ollama answers at http://127.0.0.1:9", id="no Ollama"),
    ],
)
def test_what_is_not_there_is_named(
    model: str, quant: Quant | None, error: type[PackagerError], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")

    with pytest.raises(error) as caught:
        found(model, quant)

    assert message in caught.value.message
