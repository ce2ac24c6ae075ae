"""A chat template's prompts, rendered as transformers does, in a child process that can neither hang nor eat the machine.

Worked example:
    >>> with Renderer("the base's chat_template.jinja", tokens) as renderer:
    ...     renderer.render("{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}", conversation)
    '[user] Hello'
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import cast

from packager.artifacts import Conversation, Message
from packager.chat import worker
from packager.errors import InputInvalid, UnsafeInput
from packager.formats.chat_messages import declared_tools, template_messages
from packager.formats.tokenizer import TokenizerFacts
from packager.worker_process import WorkerFailed, WorkerProcess

TIMEOUT_S = 4.0
_ANSWER_BYTES = 8 * worker.OUTPUT_CHARACTERS  # JSON writes a character in up to six bytes, twelve outside the BMP
_HINT = "Pass another template with --template FILE."

Value = str | bool | int | float | None


@dataclass(frozen=True, kw_only=True)
class RenderRefused:
    """The template does not take this conversation: its own message, or the error it ran into. A fact, not a failure."""

    message: str


@dataclass(frozen=True, kw_only=True)
class TemplateNames:
    """What a template takes from outside, and the texts it contains; both sorted."""

    free: tuple[str, ...]
    constants: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a template sees besides the messages.

    Attributes:
        variables: Added to, or replacing, what transformers passes.
        absent: Names that transformers passes as None and this setting does not pass (`tools`, where none are declared).
        now: What the clock shows; None is the real clock.
        generation_prompt: Whether the prompt ends with the header of the assistant's turn.
    """

    variables: tuple[tuple[str, Value], ...] = ()
    absent: tuple[str, ...] = ()
    now: datetime | None = None
    generation_prompt: bool = True

    def with_variable(self, name: str, value: Value) -> Setting:
        """Give this setting with one more variable."""
        return Setting(
            variables=(*self.variables, (name, value)),
            absent=self.absent,
            now=self.now,
            generation_prompt=self.generation_prompt,
        )


class Renderer:
    """Renders templates for one tokenizer in one reused worker; close it, or use it in a `with` statement.

    Args:
        source: What to call the template in an error.
        tokens: The tokenizer whose named tokens the template sees.
    """

    def __init__(self, source: str, tokens: TokenizerFacts) -> None:
        self._source = source
        self._tokens = {token.name: token.text for token in tokens.named}
        self._worker = WorkerProcess((sys.executable, "-P", str(Path(worker.__file__))))

    def render(
        self, template: str, messages: Conversation | tuple[Message, ...], setting: Setting | None = None
    ) -> str | RenderRefused:
        """Give the prompt that transformers' `apply_chat_template(..., tokenize=False)` gives.

        Raises:
            UnsafeInput: The template does not end, needs too much memory, recurses, or leaves the sandbox.
            InputInvalid: The template is not Jinja.
        """
        setting = setting or Setting()
        if not isinstance(messages, Conversation):
            messages = Conversation(id="", group="", messages=messages)
        answer = self._ask(
            {
                "action": "render",
                "template": template,
                "variables": self._variables(messages, setting),
                "now": setting.now.isoformat() if setting.now else None,
            }
        )
        if "refused" in answer:
            return RenderRefused(message=str(answer["refused"]))
        return str(answer["text"])

    def names(self, template: str) -> TemplateNames:
        """Give the names a template takes from outside and the string constants it contains.

        Raises:
            UnsafeInput: The template loads other templates, or takes too much to parse.
            InputInvalid: The template is not Jinja.
        """
        answer = self._ask({"action": "inspect", "template": template})
        return TemplateNames(
            free=tuple(cast("list[str]", answer["free"])), constants=tuple(cast("list[str]", answer["constants"]))
        )

    def close(self) -> None:
        """End the worker."""
        self._worker.close()

    @property
    def token_names(self) -> frozenset[str]:
        """Names of the tokens that the template sees, `bos_token` for one."""
        return frozenset(self._tokens)

    @property
    def worker_pid(self) -> int | None:
        """Process id of the worker, None while there is none."""
        return self._worker.pid

    def __enter__(self) -> Renderer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _variables(self, conversation: Conversation, setting: Setting) -> Mapping[str, object]:
        # The names and their defaults are those of transformers' apply_chat_template and render_jinja_template.
        seen: dict[str, object] = {
            "messages": [_with_older_name(turn) for turn in template_messages(conversation.messages)],
            "tools": declared_tools(conversation),
            "documents": None,
            "add_generation_prompt": setting.generation_prompt,
            **self._tokens,
            **dict(setting.variables),
        }
        return {name: value for name, value in seen.items() if name not in setting.absent or value is not None}

    def _ask(self, question: dict[str, object]) -> dict[str, object]:
        try:
            line = self._worker.ask(json.dumps(question).encode(), timeout_s=TIMEOUT_S, limit_bytes=_ANSWER_BYTES)
        except WorkerFailed as error:
            raise UnsafeInput(f"{self._source}: the template {error}", hint=_HINT) from error
        answer = cast("dict[str, object]", json.loads(line))
        if "unsafe" in answer:
            raise UnsafeInput(f"{self._source}: the template {answer['unsafe']}", hint=_HINT)
        if "invalid" in answer:
            raise InputInvalid(f"{self._source}: not a Jinja template ({answer['invalid']})", hint=_HINT)
        return answer


def _with_older_name(message: dict[str, object]) -> dict[str, object]:
    """Give reasoning under the name that some templates read too, as transformers does (`_alias_reasoning_fields`)."""
    reasoning = message.get("reasoning_content")
    return message if reasoning is None else {"thinking": reasoning, **message}


def render(
    template: str, conversation: Conversation, tokens: TokenizerFacts, *, setting: Setting | None = None
) -> str | RenderRefused:
    """Give one prompt; for many, a `Renderer` starts its worker only once.

    Raises:
        UnsafeInput: The template does not end, needs too much memory, recurses, or leaves the sandbox.
        InputInvalid: The template is not Jinja.
    """
    with Renderer("the chat template", tokens) as renderer:
        return renderer.render(template, conversation, setting)
