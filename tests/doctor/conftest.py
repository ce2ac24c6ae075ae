"""What an examination needs, made once: converted files, references that were read, and a doctor to call."""

from __future__ import annotations

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
from tests.llama_cpp_tools import convert


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


@pytest.fixture
def doctor(ollama_url: str, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """`doctor(model, reference)`: the diagnosis of a model in the test's Ollama, or of a file."""
    monkeypatch.setenv("OLLAMA_HOST", ollama_url)

    def call(model: str | Path, reference: Reference, output: Path | None = None) -> Diagnosis:
        return examine(read_patient(str(model), silent), reference, output=output, emit=silent)

    return call
