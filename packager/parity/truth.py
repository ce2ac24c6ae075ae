"""What the reference says to every probe conversation: asked once, kept for every quant and every engine."""

from __future__ import annotations

from dataclasses import dataclass

from packager.artifacts import Conversation
from packager.engines.engine import NotSupported
from packager.engines.transformers import Answer, Reference
from packager.errors import Unsupported
from packager.parity.matrix import CORE
from packager.parity.steps import Steps

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


def ask_reference(reference: Reference, conversations: tuple[Conversation, ...], steps: Steps) -> Truth:
    """Render every conversation, answer the CORE ones greedily, and free the model.

    Raises:
        InputInvalid: The base or the adapter cannot be loaded.
        Unsupported: The template refuses every CORE conversation, so there is nothing to compare.
    """
    answered = []
    for conversation in conversations:
        if conversation.group != CORE:
            continue
        answer = reference.answer(conversation, max_tokens=ANSWER_TOKENS)
        if not isinstance(answer, NotSupported):
            answered.append(Answered(conversation=conversation, answer=answer))
        steps.done(f"{reference.name}: {conversation.id}")
    if not answered:
        raise Unsupported(
            "the chat template refuses every probe conversation: there is nothing to compare",
            hint="Look at it with: packager template BASE ADAPTER",
        )
    prompts = tuple(reference.render(conversation) for conversation in conversations)
    ids = tuple(reference.tokens(conversation) for conversation in conversations)
    reference.close()
    return Truth(reference=reference, conversations=conversations, prompts=prompts, ids=ids, answered=tuple(answered))
