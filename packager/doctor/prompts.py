"""What the model is really fed for the CORE conversations, beside what training fed: the evidence of three organs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from packager.artifacts import Conversation, Message
from packager.chat.probes import core_probes
from packager.chat.render import Renderer
from packager.doctor.case import Ids, Patient, Reference
from packager.doctor.served import CANNOT_RUN, Served, rendered, served_by, served_by_file, without_bos
from packager.engines.engine import NotSupported
from packager.engines.llama_cpp import Embedded
from packager.errors import PackagerError
from packager.events import Emit
from packager.formats.gguf import MetadataEntry
from packager.parity.causes import Built, find_cause
from packager.parity.prompts import Rendered
from packager.parity.steps import Steps
from packager.weights.probe_gguf import write_probe

STAGE = "doctor"
_MARK = "xq7system7qx"
_USER = Message(role="user", content="xq7user7qx")
_PLAIN = Conversation(id="plain", group="", messages=(_USER,))
_MARKED = Conversation(id="marked", group="", messages=(Message(role="system", content=_MARK), _USER))
_NO_IDS = NotSupported(code="NO_IDS", detail="only texts are compared")


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One conversation on both sides.

    Attributes:
        conversation: Which.
        expected: The prompt that training built.
        found: The prompt that the model gets.
        with_found_system: What training would have built, had the conversation begun with the model's default system prompt.
        cause: A reason code of docs/templates.md where the texts differ.
        expected_ids: Token ids of `expected`, None where they cannot be had.
        found_ids: Token ids that the model is fed, None where they cannot be had.
        count: How many tokens Ollama says it evaluated, or why it does not say; None where it was not asked.
    """

    conversation: Conversation
    expected: Rendered
    found: Rendered
    with_found_system: Rendered | None = None
    cause: str = ""
    expected_ids: Ids | None = None
    found_ids: Ids | None = None
    count: int | NotSupported | None = None

    @property
    def has_system(self) -> bool:
        """Whether the conversation brings its own system prompt."""
        return any(message.role == "system" for message in self.conversation.messages)


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """The evidence.

    Attributes:
        turns: Every CORE conversation that training's template takes.
        bos: Text of the BOS token, empty when the tokenizer has none.
        expected_system: The system prompt that training's template puts where a conversation has none; None for none.
        found_system: The one that the model gets.
        own_template: Whether the chat template inside the GGUF builds training's prompts; None where there is none to look at.
        adds_bos: Whether the model's tokenizer puts a BOS in front of every text; None where it could not be asked.
        ids_missing: Why there are no token ids; empty when there are.
        cannot_run: What Ollama said where it could not run the model at all.
    """

    turns: tuple[Turn, ...]
    bos: str
    expected_system: str | None
    found_system: str | None
    own_template: bool | None
    adds_bos: bool | None
    ids_missing: str
    cannot_run: str = ""

    @property
    def unseen(self) -> str:
        """Why the model's prompts cannot be seen, empty when they can."""
        if self.cannot_run:
            return self.cannot_run
        refusals = (turn.found for turn in self.turns if isinstance(turn.found, NotSupported))
        return next((refusal.detail for refusal in refusals if refusal.code == "NO_DEBUG_RENDER"), "")

    def same_text(self, turn: Turn) -> bool:
        """Whether both prompts have the same text, but for a BOS that one of them has as a token."""
        return self.equal(turn.expected, turn.found)

    def equal(self, one: Rendered | None, other: Rendered | None) -> bool:
        """Compare two prompts; a leading BOS is not looked at, and two refusals are equal."""
        if isinstance(one, str) and isinstance(other, str):
            return without_bos(one, self.bos) == without_bos(other, self.bos)
        return isinstance(one, NotSupported) and isinstance(other, NotSupported)


def gather(
    patient: Patient,
    reference: Reference,
    vocabulary: tuple[MetadataEntry, ...] | None,
    scratch: Path,
    emit: Emit,
) -> Prompts:
    """Render and tokenize the CORE conversations on both sides.

    Args:
        patient: The model.
        reference: What it should be.
        vocabulary: `tokenizer.*` of the model, None where its token ids cannot be trusted or had.
        scratch: A folder for a file of a few megabytes.
        emit: Gets the progress.
    """
    bos = reference.tokens.bos_token or ""
    template = reference.found.template.text
    with ExitStack() as stack:
        renderer = stack.enter_context(Renderer(reference.found.template.source, reference.tokens))

        def render(conversation: Conversation) -> Rendered:
            return rendered(renderer, template, conversation)

        served = served_by(patient, stack)
        expected_system = default_system(render(_PLAIN), render(_MARKED))
        found_system = default_system(served.render(_PLAIN), served.render(_MARKED))
        tokenizer, missing = _tokenizer(reference, vocabulary, scratch, stack)
        texts = [_texts(probe, render, served.render, found_system, bos) for probe in core_probes()]
        turns = _counted(texts, served, reference, tokenizer, emit)
        adds_bos = None if tokenizer is None else bool(tokenizer.tokenize("", add_special=True))
    return Prompts(
        turns=tuple(turn for turn in turns if isinstance(turn.expected, str)),
        bos=bos,
        expected_system=expected_system,
        found_system=found_system,
        own_template=_own_template(patient, turns, bos),
        adds_bos=adds_bos,
        ids_missing=missing,
        cannot_run=_cannot_run(turns),
    )


def default_system(plain: Rendered, marked: Rendered) -> str | None:
    """Give the system prompt of a conversation that has none.

    Args:
        plain: The prompt of a conversation without a system message.
        marked: The prompt of the same with the system message `xq7system7qx`.

    Worked example:
        >>> default_system("<S>Be kind.<U>Hi", "<S>xq7system7qx<U>Hi")
        'Be kind.'
    """
    if not isinstance(plain, str) or not isinstance(marked, str) or marked.count(_MARK) != 1:
        return None
    before, after = marked.split(_MARK)
    if len(plain) < len(before) + len(after) or not (plain.startswith(before) and plain.endswith(after)):
        return None
    return plain[len(before) : len(plain) - len(after)]


def _texts(
    probe: Conversation,
    render: Callable[[Conversation], Rendered],
    served: Callable[[Conversation], Rendered],
    found_system: str | None,
    bos: str,
) -> Turn:
    expected, found = render(probe), served(probe)
    turn = Turn(conversation=probe, expected=expected, found=found)
    if not isinstance(expected, str) or not isinstance(found, str):
        return turn
    if found_system is not None and not turn.has_system:
        system = Message(role="system", content=found_system)
        turn = replace(turn, with_found_system=render(replace(probe, messages=(system, *probe.messages))))
    if without_bos(expected, bos) == without_bos(found, bos):
        return turn
    cause = find_cause(
        probe,
        Built(prompt=expected, ids=_NO_IDS),
        Built(prompt=found, ids=_NO_IDS),
        same_text=False,
        ask=lambda changed: Built(prompt=render(changed), ids=_NO_IDS),
        bos=bos,
    )
    return replace(turn, cause=cause)


def _counted(
    turns: list[Turn], served: Served, reference: Reference, tokenizer: Embedded | None, emit: Emit
) -> list[Turn]:
    """Add the token ids of both sides, and what Ollama counts when it answers."""
    steps, counted = Steps(len(turns), emit, STAGE), []
    for text in turns:
        turn, name = text, text.conversation.id
        if tokenizer is not None and reference.ids is not None:
            found_ids = served.ids(turn.found, tokenizer) if isinstance(turn.found, str) else None
            turn = replace(turn, expected_ids=reference.ids.get(name), found_ids=found_ids)
        counted.append(replace(turn, count=served.count(turn.conversation)) if isinstance(turn.found, str) else turn)
        steps.done(name)
    return counted


def _tokenizer(
    reference: Reference, vocabulary: tuple[MetadataEntry, ...] | None, scratch: Path, stack: ExitStack
) -> tuple[Embedded | None, str]:
    """Give the model's own tokenizer, or why there are no token ids on one of the sides."""
    if reference.ids is None:
        return None, reference.no_ids
    if vocabulary is None:
        return None, "the vocabulary of the model cannot be used"
    try:
        probe = write_probe(scratch / "vocabulary.gguf", vocabulary, template=None, weights=False)
        embedded = stack.enter_context(Embedded(probe.path, vocabulary_only=True))
        embedded.tokenize("", add_special=True)
    except PackagerError as error:
        return None, error.message
    return embedded, ""


def _own_template(patient: Patient, turns: list[Turn], bos: str) -> bool | None:
    """Whether the template inside the weights' file builds training's prompts in jinja2."""
    with ExitStack() as stack:
        own = served_by_file(patient, stack)
        if own is None:
            return None
        for turn in turns:
            found = own.render(turn.conversation)
            if isinstance(turn.expected, str) and (
                not isinstance(found, str) or without_bos(found, bos) != without_bos(turn.expected, bos)
            ):
                return False
    return True


def _cannot_run(turns: list[Turn]) -> str:
    answers = (answer for turn in turns for answer in (turn.found, turn.count))
    return next((a.detail for a in answers if isinstance(a, NotSupported) and a.code == CANNOT_RUN), "")
