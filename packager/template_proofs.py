"""What the commands of `packager template` do: show a template, prove it on every engine, compare two."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from packager.artifacts import Conversation, Pin
from packager.chat.canonical import canonicalise
from packager.chat.pins import FIXED_DAY
from packager.chat.probes import every_probe, load_probes
from packager.chat.render import Renderer, RenderRefused, Setting
from packager.chat.stops import find_stops
from packager.chat.walks import random_walks
from packager.codec import pretty_json
from packager.durable import write_durably
from packager.engines.ollama import OllamaServer
from packager.engines.tokenizer import TokenizerReference
from packager.errors import Usage
from packager.events import Emit, Noted
from packager.formats.adapter import read_adapter
from packager.formats.checkpoint import read_checkpoint
from packager.formats.conversations import MOST_CONVERSATIONS, read_conversations
from packager.formats.tokenizer import NO_TOKENS, read_tokenizer
from packager.parity.differences import ids_difference, text_difference
from packager.parity.template_matrix import TemplateMatrix
from packager.sources.llama_cpp_tree import cached_tree, find_tree
from packager.stages.template_check import Column, Served, TemplateCheckJob, Vocabulary, check_template
from packager.stages.templates import TemplateResult, TemplatesJob, make_template
from packager.template_subjects import Subject, read_subject
from packager.weights.vocabulary import VocabularyReader

_SHOWN_SKIPPED = 3
_SIDES = ("first", "second")


@dataclass(frozen=True, kw_only=True)
class ShownTemplate:
    """A template and what packager finds in it.

    Attributes:
        source: Where it was found.
        sha256: Digest of its UTF-8 text.
        text: The template as it stands there.
        canonical: What a build would ship.
        pins: What the canonical form fixes.
        stops: Text of every token that ends an answer.
        leading_bos: Whether every prompt starts with BOS.
        notes: What was found and stops nothing: stops that are no tokens, conversations that it refuses.
    """

    source: str
    sha256: str
    text: str
    canonical: str
    pins: tuple[Pin, ...]
    stops: tuple[str, ...]
    leading_bos: bool
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PromptPair:
    """What two templates make of one conversation; None where a template refuses it.

    `text` and `ids` say where the prompts part, empty where they do not or where there are no ids.
    """

    conversation: str
    one: str | None
    other: str | None
    text: str
    ids: str


@dataclass(frozen=True, kw_only=True)
class TemplateDifference:
    """Two templates, how many conversations were rendered, and those whose prompts differ."""

    one: str
    other: str
    conversations: int
    different: tuple[PromptPair, ...]


def show(name: str, adapter: Path | None, *, template_file: str | None, emit: Emit) -> ShownTemplate:
    """Find a template and say what it is."""
    probes = load_probes()
    subject = read_subject(name, adapter, template_file=template_file, probes=probes, emit=emit)
    eos = read_checkpoint(subject.folder).eos_token_ids if subject.folder is not None else ()
    with Renderer(subject.source, subject.tokens) as renderer:
        bos = subject.tokens.bos_token
        canonical = canonicalise(renderer, subject.text, every_probe(), source=subject.source, bos_token=bos)
        stops = find_stops(renderer, canonical.text, subject.tokens, eos, named=subject.stops)
    refused = tuple(f"refuses conversation {probe} ({message})" for probe, message in canonical.refuses)
    return ShownTemplate(
        source=subject.source,
        sha256=hashlib.sha256(subject.text.encode()).hexdigest(),
        text=subject.text,
        canonical=canonical.text,
        pins=canonical.pins,
        stops=stops.texts,
        leading_bos=canonical.leading_bos,
        notes=(*subject.notes, *stops.notes, *refused),
    )


def check(
    name: str,
    adapter: Path | None,
    *,
    template_file: str | None,
    reference: Path | None,
    columns: tuple[Column, ...],
    more: tuple[Conversation, ...] = (),
    emit: Emit,
) -> TemplateMatrix:
    """Compare what engines make of a template with what training made of it.

    Args:
        name: A checkpoint, whose canonical template is proved; or a GGUF file, a template file or a model in Ollama, each
            of which is taken as it is.
        adapter: The adapter of the checkpoint, or of the reference.
        template_file: The template that the checkpoint, or the reference, was trained with, as typed behind `--template`.
        reference: The checkpoint that a GGUF file, a template file or a model in Ollama is compared with.
        columns: The engines to ask.
        more: Conversations besides the probes.
        emit: Gets the progress.

    Raises:
        Usage: There is nothing to compare with, or two things.
    """
    base = Path(name) if Path(name).is_dir() else reference
    if base is None:
        raise Usage(
            f"{name}: there is nothing to compare it with",
            hint=f"Name the checkpoint that was trained: packager template check {name} --reference BASE",
        )
    if base is not reference and reference is not None:
        raise Usage(f"{name} is a checkpoint, and its own reference", hint="Leave out --reference.")
    checkpoint = read_checkpoint(base)
    lora = read_adapter(adapter, checkpoint) if adapter is not None else None
    with ExitStack() as stack:
        tree = cached_tree(None)
        # The slowest part of a proof: it goes on while the template is found, where nothing has to be downloaded for it.
        reader = stack.enter_context(VocabularyReader(base, tree)) if tree is not None else None
        found = make_template(TemplatesJob(base=checkpoint, adapter=lora, template_file=template_file))
        served = _as_it_is(name, emit) if reference is not None else None
        vocabulary = reader.read if reader is not None else None
        return prove(base, found, served=served, columns=columns, more=more, vocabulary=vocabulary, emit=emit)


def prove(
    base: Path,
    found: TemplateResult,
    *,
    served: Served | None = None,
    columns: tuple[Column, ...],
    more: tuple[Conversation, ...] = (),
    vocabulary: Callable[[], Vocabulary] | None = None,
    emit: Emit,
) -> TemplateMatrix:
    """Compare what engines build from a template's forms, or from what is `served`, with what training built.

    Args:
        base: The checkpoint, for its config and tokenizer.
        found: The template it was trained with, and its forms.
        served: What engines get instead of the forms.
        columns: The engines to ask.
        more: Conversations besides the probes.
        vocabulary: Reads the checkpoint's vocabulary, where a reader is under way already.
        emit: Gets the progress.
    """
    template = found.template
    forms = Served(
        template=template.text,
        adds_bos=template.adds_bos,
        lmdeploy=found.lmdeploy.text,
        go=found.go,
        rewritten=template.rewritten,
    )
    job = TemplateCheckJob(
        folder=base,
        template=template,
        served=served or forms,
        conversations=(*every_probe(), *more),
        columns=columns,
        tree=find_tree(None, emit=emit),
    )
    return check_template(job, lambda: OllamaServer.connect(emit=emit), emit, vocabulary=vocabulary)


def diff(
    one: str, other: str, *, reference: Path | None, more: tuple[Conversation, ...] = (), emit: Emit
) -> TemplateDifference:
    """Render every conversation with two templates and give those whose prompts differ.

    Args:
        one: A checkpoint, a GGUF file, a template file, or a model in Ollama.
        other: Another one.
        reference: The checkpoint whose tokenizer both templates see, and whose token ids are compared; by default the
            checkpoint among the two.
        more: Conversations besides the probes.
        emit: Gets warnings.
    """
    probes = (*every_probe(), *more)
    subjects = [read_subject(name, None, template_file=None, probes=load_probes(), emit=emit) for name in (one, other)]
    folder = reference or next((subject.folder for subject in subjects if subject.folder is not None), None)
    left, right = (_prompts(subject, subjects, folder, probes) for subject in subjects)
    different = []
    with _Tokenizer(folder) as tokenizer:
        for probe, a, b in zip(probes, left, right, strict=True):
            if a != b and not (isinstance(a, RenderRefused) and isinstance(b, RenderRefused)):
                different.append(tokenizer.pair(probe, a, b))
    return TemplateDifference(
        one=subjects[0].source, other=subjects[1].source, conversations=len(probes), different=tuple(different)
    )


def more_conversations(path: Path | None, walks: int, seed: int, *, emit: Emit) -> tuple[Conversation, ...]:
    """Give the user's own conversations and random ones; the lines of the file that cannot be used are told.

    Raises:
        InputInvalid: The file cannot be read, or none of its lines can be used.
    """
    own: tuple[Conversation, ...] = ()
    if path is not None:
        found = read_conversations(path)
        own = found.conversations
        for skipped in found.skipped[:_SHOWN_SKIPPED]:
            emit(
                Noted(stage="template", text=f"{path}: line {skipped.line} is not used: {skipped.reason}", warning=True)
            )
        if len(own) == MOST_CONVERSATIONS:
            emit(Noted(stage="template", text=f"{path}: the first {MOST_CONVERSATIONS} conversations are used"))
        if len(found.skipped) > _SHOWN_SKIPPED:
            rest = len(found.skipped) - _SHOWN_SKIPPED
            emit(Noted(stage="template", text=f"{path}: {rest} more lines are not used", warning=True))
    return (*own, *random_walks(walks, seed))


def write_matrix(matrix: TemplateMatrix, path: Path) -> None:
    """Write a matrix as JSON, whole or not at all.

    Raises:
        InputInvalid: The folder is missing or cannot be written.
    """
    write_durably(path, pretty_json(matrix))


def _as_it_is(name: str, emit: Emit) -> Served:
    subject = read_subject(name, None, template_file=None, probes=(), emit=emit)
    path = Path(name)
    gguf = path if path.is_file() and path.suffix == ".gguf" else None
    return Served(template=subject.text, gguf=gguf, model=subject.model)


def _prompts(
    subject: Subject, subjects: list[Subject], folder: Path | None, probes: tuple[Conversation, ...]
) -> tuple[str | RenderRefused, ...]:
    """Render with the tokens of the reference, or the subject's own; the clock stands still for both."""
    beside = next((each.tokens for each in (subject, *subjects) if each.tokens is not NO_TOKENS), NO_TOKENS)
    tokens = read_tokenizer(folder) if folder is not None else beside
    with Renderer(subject.source, tokens) as renderer:
        return tuple(renderer.render(subject.text, probe, Setting(now=FIXED_DAY)) for probe in probes)


class _Tokenizer:
    """Says where the token ids of two prompts part, where there is a tokenizer to ask."""

    def __init__(self, folder: Path | None) -> None:
        self._reference = None if folder is None else TokenizerReference(folder, "")

    def __enter__(self) -> _Tokenizer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._reference is not None:
            self._reference.close()

    def pair(self, probe: Conversation, a: str | RenderRefused, b: str | RenderRefused) -> PromptPair:
        if isinstance(a, RenderRefused) or isinstance(b, RenderRefused):
            refusal = next(each.message for each in (a, b) if isinstance(each, RenderRefused))
            which = "the first" if isinstance(a, RenderRefused) else "the second"
            one, other = (None if isinstance(each, RenderRefused) else each for each in (a, b))
            text = f"{which} refuses it ({refusal})"
            return PromptPair(conversation=probe.id, one=one, other=other, text=text, ids="")
        ids = ""
        if self._reference is not None:
            encode = self._reference.encode
            ids = ids_difference(encode(a), encode(b), self._reference.piece, _SIDES)
        return PromptPair(conversation=probe.id, one=a, other=b, text=text_difference(a, b, _SIDES), ids=ids)
