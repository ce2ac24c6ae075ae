"""What the reference says to every probe conversation: asked once, kept for every quant and every engine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from packager.artifacts import Conversation
from packager.codec import digest
from packager.durable import FileDigest
from packager.engines.engine import NotSupported
from packager.engines.transformers import Answer, Reference
from packager.errors import Unsupported
from packager.events import Emit, Noted, silent
from packager.formats.labelled_rows import LabelledRow
from packager.parity.matrix import CORE
from packager.parity.reference_cache import ReferenceCache, ReferenceKey
from packager.parity.steps import STAGE, Steps

ANSWER_TOKENS = 32
GREEDY_ANSWERS = 3
DATA_TOKENS = 1024  # prompt and answer of one row: 600 MB of logits with a vocabulary of 150 000


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A CORE conversation with the reference's greedy answer."""

    conversation: Conversation
    answer: Answer


@dataclass(frozen=True, kw_only=True)
class Truth:
    """The reference's side of every comparison.

    Attributes:
        reference: For its tokenizer; its weights have been let go.
        conversations: Every probe, CORE and EXT.
        prompts: The prompt text of each, or why the template refuses it.
        ids: The token ids of each.
        answered: The CORE conversations it answered, in their order.
        data: The user's rows with the answers that they expect.
        left_out: Why rows of the user's are not among them, one line each.
    """

    reference: Reference
    conversations: tuple[Conversation, ...]
    prompts: tuple[str | NotSupported, ...]
    ids: tuple[tuple[int, ...] | NotSupported, ...]
    answered: tuple[Answered, ...]
    data: tuple[Answered, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def longest_tokens(self) -> int:
        """The most tokens a prompt with its answer can have."""
        prompts = [len(ids) + ANSWER_TOKENS for ids in self.ids if not isinstance(ids, NotSupported)]
        rows = [len(row.answer.prompt) + len(row.answer.ids) for row in self.data]
        return max((*prompts, *rows), default=ANSWER_TOKENS)


def ask_reference(
    reference: Reference,
    conversations: tuple[Conversation, ...],
    data: tuple[LabelledRow, ...],
    inputs: tuple[FileDigest, ...],
    cache: ReferenceCache,
    steps: Steps,
    emit: Emit = silent,
) -> Truth:
    """Render every conversation, and have the CORE ones answered greedily, or take the answers that were given before.

    Args:
        reference: Base and adapter; its model is loaded only if it has to answer, and let go afterwards.
        conversations: Every probe.
        data: The user's rows, which the reference follows along the answers that they expect.
        inputs: What base and adapter are, for the cache.
        cache: Earlier answers.
        steps: Progress.
        emit: Told what it costs when the model does not fit into memory and has to answer.

    Raises:
        InputInvalid: The base or the adapter cannot be loaded.
        Unsupported: The template refuses every CORE conversation, so there is nothing to compare.
    """
    core = tuple(conversation for conversation in conversations if conversation.group == CORE)
    key = ReferenceKey(
        inputs=tuple(file.sha256 for file in inputs),
        template=reference.template,
        conversations=digest(core),
        answer_tokens=ANSWER_TOKENS,
        version=reference.version(),
    )

    def ask(count: int, answers: Iterator[Answer | NotSupported]) -> tuple[Answer | NotSupported, ...]:
        if reference.offload is not None:
            emit(Noted(stage=STAGE, text=reference.offload.cost(count), warning=True))
        return tuple(_counted(answers, reference.name, steps))

    with steps.section(len(core) + len(data), f"{reference.name}: answered before"):
        answers = cache.answers(
            key,
            lambda: ask(
                len(core) * ANSWER_TOKENS, (reference.answer(probe, max_tokens=ANSWER_TOKENS) for probe in core)
            ),
        )
        followed: tuple[Answer | NotSupported, ...] = ()
        if data:
            followed = cache.answers(
                replace(key, conversations=digest(data), answer_tokens=DATA_TOKENS),
                lambda: ask(
                    len(data), (reference.follow(row.conversation, row.label, max_tokens=DATA_TOKENS) for row in data)
                ),
            )
        reference.close()
    answered = tuple(
        Answered(conversation=conversation, answer=answer)
        for conversation, answer in zip(core, answers, strict=True)
        if isinstance(answer, Answer)
    )
    if not answered:
        raise Unsupported(
            "the chat template refuses every probe conversation: there is nothing to compare",
            hint="Look at it with: packager template show BASE ADAPTER",
        )
    return Truth(
        reference=reference,
        conversations=conversations,
        prompts=tuple(reference.render(conversation) for conversation in conversations),
        ids=tuple(reference.tokens(conversation) for conversation in conversations),
        answered=answered,
        data=tuple(
            Answered(conversation=row.conversation, answer=answer)
            for row, answer in zip(data, followed, strict=True)
            if isinstance(answer, Answer)
        ),
        left_out=tuple(
            f"{row.conversation.id}: {answer.code}: {answer.detail}"
            for row, answer in zip(data, followed, strict=True)
            if isinstance(answer, NotSupported)
        ),
    )


def _counted(answers: Iterator[Answer | NotSupported], name: str, steps: Steps) -> Iterator[Answer | NotSupported]:
    for number, answer in enumerate(answers, 1):
        steps.done(f"{name}: answer {number}")
        yield answer
