"""The two sides of an evaluation: the packaged model, and the base with its adapter under transformers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from packager.artifacts import OllamaParameters, Quant
from packager.codec import digest
from packager.durable import FileDigest
from packager.engines.engine import Engine
from packager.engines.llama_cpp import Embedded
from packager.engines.offload import offload_for
from packager.engines.ollama import OllamaEngine, OllamaServer
from packager.engines.transformers import Reference
from packager.errors import InputInvalid, Usage
from packager.events import Emit, Noted
from packager.formats.adapter import read_adapter
from packager.formats.build_folder import choose_gguf, read_modelfile
from packager.formats.checkpoint import read_checkpoint
from packager.formats.model_files import model_files
from packager.formats.model_name import ModelName
from packager.formats.reference_name import ReferenceName
from packager.parity.reference_cache import ReferenceCache
from packager.stages.templates import TemplatesJob, make_template

CONTEXT_TOKENS = 4096
Digests = Callable[[tuple[Path, ...]], tuple[FileDigest, ...]]


class SideName(StrEnum):
    """Which of the two."""

    PACKAGED = "packaged"
    REFERENCE = "reference"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What answers, so exactly that equal subjects give equal answers.

    Attributes:
        name: The model's name or file, or the folders of the reference.
        engine: What runs it, with its version.
        weights_sha256: Of the weights: the GGUF's, or that of the digests of all files of base and adapter.
        settings_sha256: Of what else decides an answer: the template, the stops, the context.
    """

    name: str
    engine: str
    weights_sha256: str
    settings_sha256: str


@dataclass(frozen=True, kw_only=True)
class Side:
    """One side: who it is, and the engine, which loads its weights at the first question; `close` frees them."""

    name: SideName
    subject: Subject
    engine: Engine
    close: Callable[[], None]


def packaged_side(model: str, quant: Quant | None, *, digests: Digests, emit: Emit) -> Side:
    """Find the packaged model.

    Args:
        model: A GGUF file, a build folder, or a name in Ollama; what is no folder and no `.gguf` is a name.
        quant: Which quant of a folder or a name.
        digests: Gives the digests of files.
        emit: Gets a warning when Ollama is on another machine.

    Raises:
        InputInvalid: There is no such file or folder, or no such quant in it.
        Usage: The folder has several files, or a file is named with a quant.
        OllamaFailed: No Ollama answers, or it has no such model.
        ToolMissing: llama-cpp-python is not installed.
    """
    path = Path(model)
    if path.is_dir():
        return _embedded(choose_gguf(path, quant, command="packager eval"), digests)
    if path.suffix == ".gguf":
        if quant is not None:
            raise Usage(f"{model} is one file, and --quant {quant.value} chooses one of several", hint="Leave it out.")
        return _embedded(path, digests)
    if path.is_absolute() or model.startswith("."):
        raise InputInvalid(f"{model}: no such folder", hint="packager build BASE ADAPTER -o DIR")
    return _in_ollama(ModelName.parse(model) if quant is None else ModelName.parse(model).with_tag(quant.value), emit)


def reference_side(
    name: ReferenceName,
    template_file: str | None,
    *,
    memory_bytes: int | None,
    passes: int,
    digests: Digests,
    emit: Emit,
) -> Side:
    """Find the reference, with the template of a build.

    Args:
        name: Base and adapter.
        template_file: The template, as typed behind `--template`.
        memory_bytes: The most memory for its weights; None takes what is free.
        passes: How many tokens it will say at most, for the cost.
        digests: Gives the digests of files.
        emit: Told what it costs when the weights do not fit into memory.

    Raises:
        InputInvalid: A folder cannot be read, or the adapter's and the base's template disagree.
        ToolMissing: A package of the extra `[build]` is not installed.
        Unsupported: There is no template, or the adapter is of another kind.
    """
    base = read_checkpoint(name.base)
    adapter = read_adapter(name.adapter, base) if name.adapter is not None else None
    template = make_template(TemplatesJob(base=base, adapter=adapter, template_file=template_file)).template
    offload = offload_for(base, ReferenceCache().folder, memory_bytes)
    if offload is not None:
        emit(Noted(stage=SideName.REFERENCE.value, text=offload.cost(passes), warning=True))
    engine = Reference(base.folder, adapter, template.text, offload=offload)
    subject = Subject(
        name=base.name + (f"+{adapter.name}" if adapter is not None else ""),
        engine=f"{engine.name} {engine.version()}",
        weights_sha256=digest(digests(model_files(base, adapter))),
        settings_sha256=digest(template.text),
    )
    return Side(name=SideName.REFERENCE, subject=subject, engine=engine, close=engine.close)


def _embedded(gguf: Path, digests: Digests) -> Side:
    modelfile = read_modelfile(gguf.parent)
    said = modelfile.parameters if modelfile is not None else OllamaParameters()
    context_tokens = said.num_ctx or CONTEXT_TOKENS
    engine = Embedded(gguf, context_tokens=context_tokens, stops=said.stop)
    subject = Subject(
        name=gguf.name,
        engine=f"{engine.name} {engine.version()}",
        weights_sha256=digests((gguf,))[0].sha256,
        settings_sha256=digest((context_tokens, said.stop)),
    )
    return Side(name=SideName.PACKAGED, subject=subject, engine=engine, close=engine.close)


def _in_ollama(name: ModelName, emit: Emit) -> Side:
    server = OllamaServer.connect(minimum=(0,), emit=emit)
    stored = server.show(name)
    engine = OllamaEngine(server, name)
    subject = Subject(
        name=str(name),
        engine=f"{engine.name} {engine.version()}",
        weights_sha256=stored.blob_sha256,
        settings_sha256=digest(replace(stored, name="")),
    )
    return Side(name=SideName.PACKAGED, subject=subject, engine=engine, close=_nothing)


def _nothing() -> None:
    """Leave the model in Ollama, which frees it by itself."""
