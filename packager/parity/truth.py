"""What the reference says to every probe conversation: asked once, kept for every quant and every engine."""

from __future__ import annotations

from dataclasses import dataclass

from packager.artifacts import Conversation
from packager.codec import digest
from packager.durable import FileDigest
from packager.engines.engine import NotSupported
from packager.engines.transformers import Answer, Reference
from packager.errors import Unsupported
from packager.events import Emit, Noted, silent
from packager.parity.matrix import CORE
from packager.parity.reference_cache import ReferenceCache, ReferenceKey
from packager.parity.steps import STAGE, Steps

ANSWER_TOKENS = 32
GREEDY_ANSWERS = 3


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
    """

    reference: Reference
    conversations: tuple[Conversation, ...]
    prompts: tuple[str | NotSupported, ...]
    ids: tuple[tuple[int, ...] | NotSupported, ...]
    answered: tuple[Answered, ...]

    @property
    def longest_tokens(self) -> int:
        """The most tokens a prompt with its answer can have."""
        prompts = [len(ids) for ids in self.ids if not isinstance(ids, NotSupported)]
        return max(prompts, default=0) + ANSWER_TOKENS


def ask_reference(
    reference: Reference,
    conversations: tuple[Conversation, ...],
    inputs: tuple[FileDigest, ...],
    cache: ReferenceCache,
    steps: Steps,
    emit: Emit = silent,
) -> Truth:
    """Render every conversation, and have the CORE ones answered greedily, or take the answers that were given before.

    Args:
        reference: Base and adapter; its model is loaded only if it has to answer, and let go afterwards.
        conversations: Every probe.
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

    def ask() -> tuple[Answer | None, ...]:
        if reference.offload is not None:
            emit(Noted(stage=STAGE, text=reference.offload.cost(len(core) * ANSWER_TOKENS), warning=True))
        return tuple(_answer(reference, conversation, steps) for conversation in core)

    with steps.section(len(core), f"{reference.name}: answered before"):
        answers = cache.answers(key, ask)
        reference.close()
    answered = tuple(
        Answered(conversation=conversation, answer=answer)
        for conversation, answer in zip(core, answers, strict=True)
        if answer is not None
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
    )


def _answer(reference: Reference, conversation: Conversation, steps: Steps) -> Answer | None:
    answer = reference.answer(conversation, max_tokens=ANSWER_TOKENS)
    steps.done(f"{reference.name}: {conversation.id}")
    return None if isinstance(answer, NotSupported) else answer
