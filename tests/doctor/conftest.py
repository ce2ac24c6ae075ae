"""What an examination needs, made once: converted files, references that were read, and a doctor to call."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Protocol

import pytest

from packager.doctor.case import Reference, read_patient, read_reference
from packager.doctor.diagnosis import examine
from packager.doctor.finding import Diagnosis
from packager.events import silent
from packager.sources.llama_cpp_tree import LlamaCppTree
from tests.doctor.planted import edited
from tests.llama_cpp_tools import convert
from tests.ollama_server import HEADER
from tests.tiny_models import Family, make_tiny, make_tiny_lora


class Doctor(Protocol):
    def __call__(self, model: str | Path, reference: Reference, output: Path | None = None) -> Diagnosis: ...


@pytest.fixture(scope="session")
def known() -> Callable[..., Reference]:
    """`known(base, adapter)`: a reference, read once; reading it takes longer than an examination."""

    @cache
    def read(base: Path, adapter: Path | None = None, template: str | None = None) -> Reference:
        return read_reference(base, adapter, template, emit=silent)

    return read


@pytest.fixture(scope="session")
def converted(tree: LlamaCppTree, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """`converted(checkpoint)`: what convert_hf_to_gguf.py makes of a checkpoint in f16. Read-only."""
    folder = tmp_path_factory.mktemp("converted")

    @cache
    def make(checkpoint: Path) -> Path:
        return convert(tree, checkpoint, "f16", folder / f"{checkpoint.name}.gguf")

    return make


@pytest.fixture(scope="session")
def small(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of two layers with random weights, and SmolLM2's tokenizer and template: a small vocabulary reads fast."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "@lenml" / "smollm2").mkdir(parents=True)
    (folder / "@lenml" / "smollm2" / "models").symlink_to(smollm2)
    family = Family(package="smollm2", config="LlamaConfig", model="LlamaForCausalLM", vocab_size=49152, bos=1, eos=2)
    make_tiny(family, folder, folder / "small")
    shutil.copy(smollm2 / "chat_template.jinja", folder / "small")
    return folder / "small"


@pytest.fixture(scope="session")
def small_lora(small: Path) -> Path:
    """A random LoRA on every linear layer of `small`."""
    make_tiny_lora(small, small.with_name("small-lora"))
    return small.with_name("small-lora")


@pytest.fixture(scope="session")
def plain(small: Path, converted: Callable[[Path], Path]) -> Path:
    """`small` converted, with a comment in front of its template so that Ollama attaches none of its own. Read-only."""
    source = converted(small)
    text = HEADER + (small / "chat_template.jinja").read_text()
    return edited(source, source.with_name("plain.gguf"), {"tokenizer.chat_template": text})


@pytest.fixture
def doctor(ollama_url: str, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """`doctor(model, reference)`: the diagnosis of a model in the test's Ollama, or of a file."""
    monkeypatch.setenv("OLLAMA_HOST", ollama_url)

    def call(model: str | Path, reference: Reference, output: Path | None = None) -> Diagnosis:
        return examine(read_patient(str(model), silent), reference, output=output, emit=silent)

    return call


class FileDoctor(Protocol):
    def __call__(self, model: Path, reference: Reference) -> Diagnosis: ...


@pytest.fixture
def examined() -> FileDoctor:
    """`examined(file, reference)`: the diagnosis of a GGUF file; nothing is asked but the file."""

    def call(model: Path, reference: Reference) -> Diagnosis:
        return examine(read_patient(str(model), silent), reference, emit=silent)

    return call
