"""LMDeploy's JSON form of a chat template, found by probing and emitted only when it builds the reference's prompts.

LMDeploy joins fixed texts around the contents of messages and can do nothing else, so most templates have no such form; for
those `--chat-template hf` is the right answer, and the reason why is given.

Source: lmdeploy 0.18.0, `lmdeploy/model.py`, `ChatTemplateConfig`, `BaseChatTemplate.messages2prompt` and `Vicuna`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

from packager.artifacts import Conversation, LmdeployForm, Message
from packager.chat.probes import CORE
from packager.chat.render import RenderRefused

MODEL_NAME = "packager"  # any name that LMDeploy has not registered: a known one would bring its own texts
# A name it has registered, whose class differs only in dropping the last character of a prompt: what an answer in the history
# begins with, but for a blank at its end. Its own texts are all replaced.
CUTS_LAST = "vicuna"
_SYSTEM, _USER, _ANSWER, _NEXT = "xq7system7qx", "xq7user7qx", "xq7answer7qx", "xq7next7qx"

Render = Callable[[tuple[Message, ...]], str | RenderRefused]


@dataclass(frozen=True, kw_only=True)
class Texts:
    """What LMDeploy writes around contents; names are those of its JSON file."""

    model_name: str = MODEL_NAME
    system: str
    meta_instruction: str
    eosys: str
    user: str
    eoh: str
    assistant: str
    eoa: str
    separator: str


def lmdeploy_form(
    render: Render, probes: tuple[Conversation, ...], *, stops: tuple[str, ...], double_bos: bool
) -> LmdeployForm:
    """Give the JSON form, or the reason code and the first CORE conversation that it cannot build.

    Args:
        render: Gives the reference's prompt for messages.
        probes: The probe conversations; the CORE ones decide.
        stops: Tokens that end an answer, the end of a turn first.
        double_bos: The tokenizer adds a BOS that the template does not write.
    """
    if double_bos:
        return _none(
            "BOS_DUP", "LMDeploy tokenizes with special tokens, and the tokenizer adds a BOS that training had not"
        )
    texts = solve(render, stops)
    if isinstance(texts, LmdeployForm):
        return texts
    for probe in (probe for probe in probes if probe.group == CORE):
        expected = render(probe.messages)
        if expected != assemble(texts, probe.messages):
            return _diagnose(texts, probe, expected)
    document = {**asdict(texts), "capability": "chat", "stop_words": list(stops)}
    return LmdeployForm(json_text=json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def assemble(texts: Texts, messages: tuple[Message, ...]) -> str:
    """Give the prompt that LMDeploy builds.

    Args:
        texts: The template.
        messages: Roles system, user and assistant; the last one is not the assistant's.
    """
    before = {"system": texts.system, "user": texts.user, "assistant": texts.assistant}
    after = {"system": texts.eosys, "user": texts.eoh, "assistant": texts.eoa + texts.separator}
    parts = [] if messages[0].role == "system" else [texts.system, texts.meta_instruction, texts.eosys]
    for message in messages:
        parts += [before[message.role], message.content, after[message.role]]
    prompt = "".join([*parts, texts.assistant])
    return prompt[:-1] if texts.model_name == CUTS_LAST else prompt


def assembled(json_text: str, messages: tuple[Message, ...]) -> str:
    """Give the prompt that LMDeploy builds from a JSON form of ours."""
    document = json.loads(json_text)
    return assemble(Texts(**{name: document[name] for name in Texts.__dataclass_fields__}), messages)


def solve(render: Render, stops: tuple[str, ...]) -> Texts | LmdeployForm:
    """Learn the texts from prompts whose contents are unique marks.

    Returns:
        The texts, or the form that says why there are none. The texts are not proved yet.
    """
    system = Message(role="system", content=_SYSTEM)
    user = Message(role="user", content=_USER)
    turns = (system, user, Message(role="assistant", content=_ANSWER), Message(role="user", content=_NEXT))
    plain, full = render((user,)), render(turns)
    if isinstance(plain, RenderRefused):
        return _none("POSITION", f"the template refuses a single user message ({plain.message})")
    if isinstance(full, RenderRefused):
        return _none("SYS_MERGE", f"the template refuses a system message ({full.message})")
    around = _split(full, (_SYSTEM, _USER, _ANSWER, _NEXT))
    first = _split(plain, (_USER,))
    if around is None or first is None:
        return _none("SYS_MERGE", "the template drops, repeats or moves the content of a message")
    head, system_to_user, user_to_answer, answer_to_user, tail = around
    cuts = user_to_answer[:-1] == tail != user_to_answer
    if user_to_answer != tail and not cuts:
        return _none(
            "GEN_PROMPT", f"the prompt ends with {tail!r}, an answer in the history begins with {user_to_answer!r}"
        )
    user_text = _user_header(system_to_user, answer_to_user, stops)
    eosys = system_to_user.removesuffix(user_text)
    closing = eosys + user_text
    if not (first[0].startswith(head) and first[0].endswith(closing) and len(first[0]) >= len(head + closing)):
        return _none(
            "NO_DEFAULT_SYS", f"without a system message the prompt begins with {first[0]!r}, not with {head!r}"
        )
    eoh, assistant = _after_stop(user_to_answer, stops)
    eoa, separator = _after_stop(answer_to_user.removesuffix(user_text), stops, newlines=False)
    meta = first[0].removeprefix(head).removesuffix(closing)
    return Texts(
        model_name=CUTS_LAST if cuts else MODEL_NAME, system=head, meta_instruction=meta, eosys=eosys, user=user_text,
        eoh=eoh, assistant=assistant, eoa=eoa, separator=separator,
    )  # fmt: skip


def _diagnose(texts: Texts, probe: Conversation, expected: str | RenderRefused) -> LmdeployForm:
    where = f"conversation {probe.id}"
    if isinstance(expected, RenderRefused):
        return _none("POSITION", f"{where}: the template refuses it ({expected.message})")
    trimmed = tuple(Message(role=turn.role, content=turn.content.strip()) for turn in probe.messages)
    if assemble(texts, trimmed) == expected:
        return _none("TRIM", f"{where}: the template trims contents, LMDeploy does not")
    if probe.messages[0].role != "system" and not expected.startswith(texts.system + texts.meta_instruction):
        return _none("NO_DEFAULT_SYS", f"{where}: LMDeploy always writes a system block")
    return _none("POSITION", f"{where}: what surrounds a message depends on more than its role")


def _none(code: str, reason: str) -> LmdeployForm:
    return LmdeployForm(json_text=None, code=code, reason=reason)


def _split(prompt: str, marks: tuple[str, ...]) -> list[str] | None:
    """Cut a prompt at the marks; None unless each appears once, in order."""
    parts = []
    for mark in marks:
        if prompt.count(mark) != 1:
            return None
        before, _, prompt = prompt.partition(mark)
        parts.append(before)
    return [*parts, prompt]


def _user_header(after_system: str, after_answer: str, stops: tuple[str, ...]) -> str:
    """Give the text in front of a user's content: what follows the end of a turn, or all that both ends share."""
    shared = 0
    while shared < min(len(after_system), len(after_answer)) and after_system[-1 - shared] == after_answer[-1 - shared]:
        shared += 1
    common = after_answer[len(after_answer) - shared :]
    return _after_stop(common, stops)[1]


def _after_stop(text: str, stops: tuple[str, ...], *, newlines: bool = True) -> tuple[str, str]:
    """Cut a text behind the first stop in it, or at its start when there is none, and behind the newlines that follow."""
    stop = next((stop for stop in stops if stop in text), "")
    end = text.index(stop) + len(stop)
    while newlines and end < len(text) and text[end] == "\n":
        end += 1
    return text[:end], text[end:]
