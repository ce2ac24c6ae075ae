"""The proof of a chat template: every engine's prompts and token ids against transformers', without the model's weights.

Each engine gets a probe, a model of a few megabytes with the real vocabulary, so that a template is proved in seconds and
before anything large is written.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path

from packager.artifacts import ChatTemplate, Conversation, Gguf
from packager.chat import serving
from packager.engines.engine import Engine
from packager.engines.llama_cpp import Embedded
from packager.engines.lmdeploy import Lmdeploy
from packager.engines.ollama import OllamaEngine, OllamaServer
from packager.engines.ollama_probe import probe_model
from packager.engines.tokenizer import TokenizerReference
from packager.engines.vllm import Vllm
from packager.errors import PackagerError
from packager.events import Advanced, Emit
from packager.formats.gguf import MetadataEntry
from packager.formats.text_file import write_text
from packager.parity.template_matrix import Asked, TemplateMatrix, TemplateRow, template_cells
from packager.sources.llama_cpp_tree import LlamaCppTree
from packager.weights.checkpoint_files import write_tokenizer_files
from packager.weights.probe_gguf import write_probe
from packager.weights.vocabulary import vocabulary_of_folder, vocabulary_of_gguf

STAGE = "template"


class Column(StrEnum):
    """The engines a template is proved on, by the name they are asked for with."""

    LLAMA_CPP = "llama.cpp"
    OLLAMA = "ollama"
    VLLM = "vllm"
    LMDEPLOY = "lmdeploy"


@dataclass(frozen=True, kw_only=True)
class Served:
    """What engines are given.

    Attributes:
        template: The template.
        adds_bos: Whether the GGUF's tokenizer adds BOS; None leaves what the vocabulary says.
        gguf: The file whose vocabulary llama.cpp and Ollama get; None for the one of the reference's folder.
        model: A model in Ollama that is asked as it is; None for a probe.
        lmdeploy: LMDeploy's JSON form; None for `--chat-template hf`.
    """

    template: str
    adds_bos: bool | None = None
    gguf: Path | None = None
    model: str | None = None
    lmdeploy: str | None = None


@dataclass(frozen=True, kw_only=True)
class TemplateCheckJob:
    """What to prove.

    Attributes:
        folder: The reference's Hugging Face folder; only its config and tokenizer files are read.
        template: The canonical template of the reference.
        served: What the engines get.
        conversations: What it is proved on.
        columns: The engines to ask.
        tree: llama.cpp's converter, which reads the tokenizer.
    """

    folder: Path
    template: ChatTemplate
    served: Served
    conversations: tuple[Conversation, ...]
    columns: tuple[Column, ...]
    tree: LlamaCppTree


def check_template(job: TemplateCheckJob, connect: Callable[[], OllamaServer], emit: Emit) -> TemplateMatrix:
    """Compare every engine with transformers on every conversation.

    Args:
        job: What to prove.
        connect: Gives the Ollama server, when it is asked; an error of it becomes a row that was not checked.
        emit: Gets the progress, one step for each conversation and engine.

    Raises:
        InputInvalid: The tokenizer cannot be read.
        Unsupported: llama.cpp's converter does not know the architecture or the tokenizer.
        UnsafeInput: The template does not end on one of the conversations.
    """
    with (
        tempfile.TemporaryDirectory(prefix="packager-") as scratch,
        TokenizerReference(job.folder, job.template.text) as reference,
        ThreadPoolExecutor(max_workers=1) as background,
    ):
        vocabulary = background.submit(_vocabulary, job)
        steps = _Steps(len(job.conversations) * (len(job.columns) + 1), emit)
        expected = _ask(reference, job.conversations, steps)
        probes = _Probes(Path(scratch), job, vocabulary.result())
        rows = tuple(_row(column, job, reference, expected, probes, connect, steps) for column in job.columns)
        return TemplateMatrix(
            source=job.template.source,
            original_sha256=job.template.original_sha256,
            reference=f"{reference.name} {reference.version()}",
            conversations=job.conversations,
            rows=rows,
        )


def _vocabulary(job: TemplateCheckJob) -> tuple[MetadataEntry, ...]:
    if job.served.gguf is not None:
        return vocabulary_of_gguf(job.served.gguf)
    return vocabulary_of_folder(job.folder, job.tree)


def _row(
    column: Column,
    job: TemplateCheckJob,
    reference: TokenizerReference,
    expected: Asked,
    probes: _Probes,
    connect: Callable[[], OllamaServer],
    steps: _Steps,
) -> TemplateRow:
    try:
        with _asked(column, job, probes, connect, steps) as (version, found):
            cells = template_cells(
                job.conversations,
                expected,
                found,
                render=reference.render,
                piece=reference.piece,
                stripped_bos=reference.bos_text if column is Column.OLLAMA else "",
            )
    except PackagerError as error:
        return TemplateRow(engine=column.value, version="", not_checked=error.message)
    return TemplateRow(engine=column.value, version=version, cells=cells)


@contextmanager
def _asked(
    column: Column,
    job: TemplateCheckJob,
    probes: _Probes,
    connect: Callable[[], OllamaServer],
    steps: _Steps,
) -> Iterator[tuple[str, Asked]]:
    if column is Column.LLAMA_CPP:
        yield probes.embedded.version(), _ask(probes.embedded, job.conversations, steps)
    elif column is Column.OLLAMA and job.served.model is not None:
        engine = OllamaEngine(connect(), job.served.model)
        yield engine.version(), _ask_ollama(engine, probes.embedded, job.conversations, steps)
    elif column is Column.OLLAMA:
        with probe_model(connect(), probes.with_weights) as engine:
            yield engine.version(), _ask_ollama(engine, probes.embedded, job.conversations, steps)
    elif column is Column.VLLM:
        with Vllm(probes.folder, probes.folder / serving.TEMPLATE_FILE, probes.folder / "vllm.log") as vllm:
            yield vllm.version(), _ask(vllm, job.conversations, steps)
    else:
        with Lmdeploy(probes.folder, probes.lmdeploy_form) as lmdeploy:
            version = f"{lmdeploy.version()} with {'hf' if job.served.lmdeploy is None else serving.LMDEPLOY_FILE}"
            yield version, _ask(lmdeploy, job.conversations, steps)


def _ask(engine: Engine, conversations: tuple[Conversation, ...], steps: _Steps) -> Asked:
    prompts, ids = [], []
    for conversation in conversations:
        prompts.append(engine.render(conversation))
        ids.append(engine.tokens(conversation))
        steps.done(f"{engine.name}: {conversation.id}")
    return Asked(prompts=tuple(prompts), ids=tuple(ids))


def _ask_ollama(
    engine: OllamaEngine, tokenizer: Embedded, conversations: tuple[Conversation, ...], steps: _Steps
) -> Asked:
    """Take Ollama's prompts, tokenize them as llama-server does, and take its own count as a witness."""
    prompts, ids, counts = [], [], []
    for conversation in conversations:
        prompt = engine.render(conversation)
        prompts.append(prompt)
        ids.append(tokenizer.tokenize(prompt, add_special=True) if isinstance(prompt, str) else prompt)
        counts.append(engine.prompt_token_count(conversation))
        steps.done(f"{engine.name}: {conversation.id}")
    return Asked(prompts=tuple(prompts), ids=tuple(ids), counts=tuple(counts))


class _Probes:
    """The files of one proof, each written when an engine first needs it."""

    def __init__(self, scratch: Path, job: TemplateCheckJob, vocabulary: tuple[MetadataEntry, ...]) -> None:
        self._scratch = scratch
        self._job = job
        self._served = job.served
        self._vocabulary = vocabulary

    @cached_property
    def folder(self) -> Path:
        """A checkpoint without weights, as vLLM and LMDeploy read it."""
        folder = self._scratch / "checkpoint"
        folder.mkdir()
        write_tokenizer_files(self._job.folder, self._served.template, folder)
        return folder

    @cached_property
    def lmdeploy_form(self) -> Path | None:
        """LMDeploy's JSON file."""
        text = self._served.lmdeploy
        return None if text is None else write_text(self._scratch / serving.LMDEPLOY_FILE, text)

    @cached_property
    def embedded(self) -> Embedded:
        """The vocabulary and the template in the embedded engine."""
        probe = write_probe(
            self._scratch / "vocabulary.gguf",
            self._vocabulary,
            template=self._served.template,
            adds_bos=self._served.adds_bos,
            weights=False,
        )
        return Embedded(probe.path, vocabulary_only=True)

    @cached_property
    def with_weights(self) -> Gguf:
        """The same as a model that can be served."""
        return write_probe(
            self._scratch / "probe.gguf",
            self._vocabulary,
            template=self._served.template,
            adds_bos=self._served.adds_bos,
        )


class _Steps:
    """Counts conversations put to engines."""

    def __init__(self, total: int, emit: Emit) -> None:
        self._total = total
        self._emit = emit
        self._done = 0

    def done(self, detail: str) -> None:
        self._done += 1
        self._emit(Advanced(stage=STAGE, done=self._done, total=self._total, unit="probe", detail=detail))
