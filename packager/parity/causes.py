"""Why an engine's prompt differs: a suspicion counts only when the reference, given the changed conversation, builds the same.

The reference renders the conversation as the engine is suspected to have changed it. Where the engine shows no text, the token
ids are compared.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from packager.artifacts import Conversation, Message
from packager.codec import JsonObject
from packager.engines.engine import NotSupported
from packager.engines.lmdeploy_messages import bare_function
from packager.engines.ollama_messages import rewritten_tool
from packager.parity.prompts import Rendered
from packager.parity.tokens import Ids

COLLATE, SYS_MERGE, TRIM, CONTENT, BOS_DUP, BOS_LOST, EOS_ADDED, NFC, TOKENIZER, DIFFERS = (
    "COLLATE", "SYS_MERGE", "TRIM", "CONTENT", "BOS_DUP", "BOS_LOST", "EOS_ADDED", "NFC", "TOKENIZER", "DIFFERS"
)  # fmt: skip
NO_TOOLS, TOOLJSON, THINKING = "NO_TOOLS", "TOOLJSON", "THINKING"


@dataclass(frozen=True, kw_only=True)
class Built:
    """What one side builds for a conversation."""

    prompt: Rendered
    ids: Ids


def find_cause(
    conversation: Conversation,
    expected: Built,
    found: Built,
    *,
    same_text: bool,
    ask: Callable[[Conversation], Built],
    bos: str,
) -> str:
    """Give the reason code of a difference; two causes at once are joined with `+`.

    Args:
        conversation: What was rendered.
        expected: The reference's side.
        found: The engine's side.
        same_text: Whether the two texts are equal.
        ask: Gives what the reference builds for another conversation.
        bos: A BOS text that the engine takes off its prompt and adds again as a token.
    """
    ends = _ends(expected.ids, found.ids)
    if ends:
        return ends
    if same_text:
        text = expected.prompt if isinstance(expected.prompt, str) else ""
        return TOKENIZER if unicodedata.is_normalized("NFC", text) else NFC
    for code, changed in _suspects(conversation):
        if changed != conversation and _same(ask(changed), found, bos):
            return code
    raw = _with_raw_contents(conversation, lambda changed: ask(changed).prompt)
    if _same_text(raw, found.prompt, bos):
        stripped = replace(conversation, messages=_stripped(conversation.messages))
        return TRIM if stripped != conversation and ask(stripped).prompt == expected.prompt else CONTENT
    return DIFFERS


def _ends(expected: Ids, found: Ids) -> str:
    """Give what became of the first id or behind the last one, where nothing else differs; else an empty text."""
    if not (isinstance(expected, tuple) and isinstance(found, tuple)):
        return ""
    if found[1:] == expected:
        return BOS_DUP
    if expected[1:] == found:
        return BOS_LOST
    return EOS_ADDED if found[: len(expected)] == expected else ""


def without_thinking(conversation: Conversation) -> Conversation:
    """Give a conversation whose answers have no reasoning of their own."""
    return replace(conversation, messages=tuple(replace(m, thinking="") for m in conversation.messages))


def without_calls(conversation: Conversation) -> Conversation:
    """Give a conversation in which nothing is called and nothing answered by a tool."""
    said = (replace(m, tool_calls=()) for m in conversation.messages if m.role != "tool")
    return replace(conversation, messages=tuple(m for m in said if m.role != "assistant" or m.content or m.thinking))


def _suspects(conversation: Conversation) -> Iterator[tuple[str, Conversation]]:
    """Give what engines do to a conversation, one thing at a time, then what they do to tools and reasoning at once."""
    for code, messages in _text_suspects(conversation.messages):
        yield code, replace(conversation, messages=messages)
    plain = without_thinking(conversation)
    yield THINKING, plain
    for code, change in _TOOL_SUSPECTS:
        yield code, change(conversation)
        if plain != conversation:
            yield f"{THINKING}+{code}", change(plain)


def _tools_by(change: Callable[[JsonObject], JsonObject]) -> Callable[[Conversation], Conversation]:
    return lambda conversation: replace(conversation, tools=tuple(map(change, conversation.tools)))


_TOOL_SUSPECTS: tuple[tuple[str, Callable[[Conversation], Conversation]], ...] = (
    (TOOLJSON, _tools_by(rewritten_tool)),
    (TOOLJSON, _tools_by(bare_function)),
    (NO_TOOLS, lambda conversation: replace(conversation, tools=())),
    (NO_TOOLS, lambda conversation: without_calls(replace(conversation, tools=()))),
)


def _text_suspects(messages: tuple[Message, ...]) -> tuple[tuple[str, tuple[Message, ...]], ...]:
    stripped = _stripped(messages)
    return (
        (COLLATE, _collated(messages)),
        (TRIM, stripped),
        (COLLATE, _collated(stripped)),
        (SYS_MERGE, _system_merged(messages, "\n")),
        (SYS_MERGE, _system_merged(messages, "\n\n")),
    )


def _stripped(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    return tuple(replace(message, content=message.content.strip()) for message in messages)


def _collated(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Join messages of one role in a row as Ollama does (`collate` of template/template.go)."""
    joined: list[Message] = []
    for message in messages:
        if joined and joined[-1].role == message.role:
            joined[-1] = replace(message, content=f"{joined[-1].content}\n\n{message.content}")
        else:
            joined.append(message)
    return tuple(joined)


def _system_merged(messages: tuple[Message, ...], joint: str) -> tuple[Message, ...]:
    """Put every system message in front of the next message, as llama.cpp does when a template drops it."""
    merged: list[Message] = []
    waiting: list[str] = []
    for message in messages:
        if message.role == "system":
            waiting.append(message.content)
        else:
            merged.append(replace(message, content=joint.join([*waiting, message.content])))
            waiting = []
    return tuple(merged)


def _same(one: Built, other: Built, bos: str) -> bool:
    if isinstance(other.prompt, str):
        return _same_text(one.prompt, other.prompt, bos)
    return isinstance(one.ids, tuple) and one.ids == other.ids


def _same_text(one: Rendered, other: Rendered, bos: str) -> bool:
    """Whether two prompts are equal but for a BOS that one of them has as a token."""
    return isinstance(one, str) and isinstance(other, str) and one.removeprefix(bos) == other.removeprefix(bos)


def _with_raw_contents(conversation: Conversation, render: Callable[[Conversation], Rendered]) -> Rendered:
    """Give the prompt of a template that writes every content as it is, with this one's texts around them."""
    marks = [f"xq{place}mark{place}qx" for place in range(len(conversation.messages))]
    marked = tuple(replace(m, content=mark) for m, mark in zip(conversation.messages, marks, strict=True))
    prompt = render(replace(conversation, messages=marked))
    if isinstance(prompt, NotSupported):
        return prompt
    for mark, message in zip(marks, conversation.messages, strict=True):
        prompt = prompt.replace(mark, message.content)
    return prompt
