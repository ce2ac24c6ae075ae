"""The engines of a template's proof: each with the probe it needs, asked for every conversation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path

from packager.artifacts import ChatTemplate, Conversation, Gguf, GoForm
from packager.chat import serving
from packager.engines.engine import Engine
from packager.engines.llama_cpp import Embedded
from packager.engines.lmdeploy import Lmdeploy
from packager.engines.ollama import OllamaEngine, OllamaServer
from packager.engines.ollama_probe import probe_model
from packager.engines.vllm import Vllm
from packager.errors import Unsupported
from packager.formats.gguf import MetadataEntry
from packager.formats.text_file import write_text
from packager.parity.steps import Steps
from packager.parity.template_matrix import Asked
from packager.sources.llama_cpp_tree import LlamaCppTree
from packager.weights.checkpoint_files import write_tokenizer_files
from packager.weights.probe_gguf import write_probe


class Column(StrEnum):
    """The engines a template is proved on, by the name they are asked for with."""

    LLAMA_CPP = "llama.cpp"
    OLLAMA = "ollama"
    OLLAMA_GO = "ollama-go"
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
        go: The Go TEMPLATE of an Ollama before 0.30; None when it is not asked for.
        rewritten: What a GGUF gets where this Ollama does not build the reference's prompts from `template`; None for
            nothing else.
    """

    template: str
    adds_bos: bool | None = None
    gguf: Path | None = None
    model: str | None = None
    lmdeploy: str | None = None
    go: GoForm | None = None
    rewritten: str | None = None


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


@contextmanager
def asked(
    column: Column,
    job: TemplateCheckJob,
    probes: Probes,
    connect: Callable[[], OllamaServer],
    steps: Steps,
) -> Iterator[tuple[str, Asked, str]]:
    """Give an engine's version, what it builds, and for Ollama where it says that it takes its prompt from."""
    if column is Column.LLAMA_CPP:
        yield probes.embedded.version(), ask(probes.embedded, job.conversations, steps), ""
    elif column is Column.OLLAMA and job.served.model is not None:
        server = connect()
        source = server.show(job.served.model).template_source
        engine = OllamaEngine(server, job.served.model)
        yield engine.version(), _ask_ollama(engine, probes.embedded, job.conversations, steps), source
    elif column in (Column.OLLAMA, Column.OLLAMA_GO):
        server, go = connect(), _go_text(job.served) if column is Column.OLLAMA_GO else None
        with probe_model(server, probes.with_weights if go is None else probes.without_template, template=go) as engine:
            source = server.show(engine.model).template_source
            yield engine.version(), _ask_ollama(engine, probes.embedded, job.conversations, steps), source
    elif column is Column.VLLM:
        with Vllm(probes.folder, probes.folder / serving.TEMPLATE_FILE, probes.folder / "vllm.log") as vllm:
            yield vllm.version(), ask(vllm, job.conversations, steps), ""
    else:
        with Lmdeploy(probes.folder, probes.lmdeploy_form) as lmdeploy:
            version = f"{lmdeploy.version()} with {'hf' if job.served.lmdeploy is None else serving.LMDEPLOY_FILE}"
            yield version, ask(lmdeploy, job.conversations, steps), ""


def _go_text(served: Served) -> str:
    if served.go is None:
        raise Unsupported("only a checkpoint's template has a Go form")
    if served.go.text is None:
        raise Unsupported(f"{served.go.code}: there is no Go form, {served.go.reason}")
    return served.go.text


def ask(engine: Engine, conversations: tuple[Conversation, ...], steps: Steps) -> Asked:
    """Give an engine's prompts and token ids."""
    prompts, ids = [], []
    for conversation in conversations:
        prompts.append(engine.render(conversation))
        ids.append(engine.tokens(conversation))
        steps.done(f"{engine.name}: {conversation.id}")
    return Asked(prompts=tuple(prompts), ids=tuple(ids))


def _ask_ollama(
    engine: OllamaEngine, tokenizer: Embedded, conversations: tuple[Conversation, ...], steps: Steps
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


class Probes:
    """The files of one proof, each written when an engine first needs it; use it in a `with` statement.

    `vocabulary` gives what a GGUF says of the tokenizer, or raises for llama.cpp and Ollama that there is no such file.
    """

    def __init__(
        self, scratch: Path, job: TemplateCheckJob, vocabulary: Callable[[], tuple[MetadataEntry, ...]]
    ) -> None:
        self._scratch = scratch
        self._job = job
        self._served = job.served
        self._vocabulary = vocabulary

    def __enter__(self) -> Probes:
        return self

    def __exit__(self, *_: object) -> None:
        if "embedded" in self.__dict__:
            self.embedded.close()

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
            self._vocabulary(),
            template=self._served.template,
            adds_bos=self._served.adds_bos,
            weights=False,
        )
        return Embedded(probe.path, vocabulary_only=True)

    @cached_property
    def with_weights(self) -> Gguf:
        """The same as a model that can be served."""
        return self._probe("probe.gguf", self._served.template)

    @cached_property
    def without_template(self) -> Gguf:
        """A model that leaves Ollama, of any version, to its Go TEMPLATE."""
        return self._probe("bare.gguf", None)

    def _probe(self, name: str, template: str | None) -> Gguf:
        return write_probe(self._scratch / name, self._vocabulary(), template=template, adds_bos=self._served.adds_bos)
