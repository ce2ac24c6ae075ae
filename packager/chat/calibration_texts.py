"""The user's own conversations as the text that an importance matrix is computed from: prompt, answer and its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from packager.artifacts import Message
from packager.chat.render import Renderer, RenderRefused, Setting
from packager.errors import InputInvalid
from packager.formats.labelled_rows import LabelledRow
from packager.formats.tokenizer import read_tokenizer


def rendered(rows: Sequence[LabelledRow], chat_template: str, tokenizer: Path) -> tuple[str, ...]:
    """Render every row with its answer, as training saw it.

    Args:
        rows: Prompts and answers.
        chat_template: The canonical text.
        tokenizer: The folder whose named tokens the template sees: `fine_tuned.tokenizer_folder`.

    Raises:
        InputInvalid: The template refuses a row; its line is named.
        UnsafeInput: The template does not end or leaves its sandbox.
    """
    texts = []
    with Renderer("the chat template", read_tokenizer(tokenizer)) as renderer:
        for row in rows:
            answer = Message(role="assistant", content=row.label)
            whole = replace(row.conversation, messages=(*row.conversation.messages, answer))
            text = renderer.render(chat_template, whole, Setting(generation_prompt=False))
            if isinstance(text, RenderRefused):
                raise InputInvalid(
                    f"line {row.number}: the chat template refuses it ({text.message})", hint="Leave the line out."
                )
            texts.append(text)
    return tuple(texts)
