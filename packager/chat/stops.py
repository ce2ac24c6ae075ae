"""The tokens that end an answer, from everything that names one."""

from __future__ import annotations

from dataclasses import dataclass

from packager.artifacts import Message
from packager.chat.render import Renderer, Setting
from packager.formats.tokenizer import NO_TOKENS, TokenizerFacts

_USER = "xq7user1content7qx"
_ASSISTANT = "xq7assistant1content7qx"
_SHOWN_CHARACTERS = 40


@dataclass(frozen=True, kw_only=True)
class Stops:
    """Text of every token that ends an answer, the end of a turn first, and what was named and is no such token."""

    texts: tuple[str, ...]
    notes: tuple[str, ...]


def find_stops(
    renderer: Renderer,
    template: str,
    tokens: TokenizerFacts,
    eos_token_ids: tuple[int, ...],
    *,
    named: tuple[str, ...] = (),
) -> Stops:
    """Give the stops that the template, its trainer, generation_config and the tokenizer name.

    Each is one special token of the vocabulary; anything else that is named goes into the notes, because an engine that
    stops at text which the model can also say would cut answers short.

    Args:
        renderer: Renders for the template's tokenizer.
        template: The canonical template.
        tokens: The tokenizer.
        eos_token_ids: generation_config's (or config's) list.
        named: What the trainer stops at, for a template of the index.
    """
    if tokens is NO_TOKENS:
        return Stops(
            texts=named, notes=("there is no tokenizer here; whether a stop is one of its tokens: not checked",)
        )
    special = {token.text for token in tokens.special if token.special}
    by_id = {token.id: token.text for token in tokens.special}
    found: list[str] = []
    notes: list[str] = []
    after = _text_after_assistant(renderer, template)
    if after is not None:
        text = after.lstrip()
        end_of_turn = max((token for token in special if text.startswith(token)), key=len, default=None)
        if end_of_turn is not None:
            found.append(end_of_turn)
        else:
            shown = after[:_SHOWN_CHARACTERS]
            notes.append(f"the template ends an assistant turn with {shown!r}, which is no special token")
    found += [text for text in named if text in special]
    lost = [text for text in named if text not in special]
    notes += [f"the trainer stops at {text!r}, which is no special token of the tokenizer" for text in lost]
    for number in eos_token_ids:
        text_of = by_id.get(number)
        if text_of is None or text_of not in special:
            notes.append(f"the end token {number} of generation_config is no special token of the tokenizer")
        else:
            found.append(text_of)
    if tokens.eos_token is not None:
        if tokens.eos_token in special:
            found.append(tokens.eos_token)
        else:
            notes.append(f"the tokenizer's eos_token {tokens.eos_token!r} is no special token")
    return Stops(texts=tuple(dict.fromkeys(found)), notes=tuple(notes))


def _text_after_assistant(renderer: Renderer, template: str) -> str | None:
    """Give what the template writes behind an assistant's content, None when that cannot be found.

    Some templates write nothing there, and the header of the next turn is what ends the answer (GLM's `<|user|>`).
    """
    turns = (Message(role="user", content=_USER), Message(role="assistant", content=_ASSISTANT))
    for messages in (turns, (*turns, Message(role="user", content=_USER))):
        prompt = renderer.render(template, messages, Setting(generation_prompt=False))
        if isinstance(prompt, str) and prompt.count(_ASSISTANT) == 1:
            after = prompt.partition(_ASSISTANT)[2].partition(_USER)[0]
            if after.strip():
                return after
    return None
