"""Learns a template's model from its prompts: conversations of unique marks go in, the texts between the marks come out.

The template's text is never looked at; too much of Jinja has no counterpart elsewhere. What was learned is proved on the
probes and on random conversations before it is given to anyone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from packager.artifacts import Conversation, Message
from packager.chat.render import RenderRefused
from packager.chat.turn_model import (
    ASSISTANT,
    END,
    START,
    SYSTEM,
    USER,
    Edge,
    Trim,
    TurnModel,
    Unsolved,
    late_system,
)
from packager.chat.walks import random_walks

Render = Callable[[tuple[Message, ...]], str | RenderRefused]

PROOF_WALKS = 100
_HARD = ("", "\n", " \t ", "\u3000", "<think>\na\n</think>\n\nb", "a</think>", "\n\nc\n\n")
# In front of a mark and behind it: every way to cut the two ends that meet leaves another text.
_BLANKS = ("\n\n\n \n", "\n\t\n\n")
_CUTS = tuple((one, other) for one in Trim for other in Trim)
_LIMITS = ("think", "system blanks", "empty")
_CHATS = {
    "one turn": (USER,),
    "two turns": (USER, ASSISTANT, USER),
    "four turns": (USER, ASSISTANT, USER, ASSISTANT, USER, ASSISTANT, USER),
    "system": (SYSTEM, USER),
    "system and two turns": (SYSTEM, USER, ASSISTANT, USER),
    "system and three turns": (SYSTEM, USER, ASSISTANT, USER, ASSISTANT, USER),
}
_PADDED = ("two turns", "system", "system and two turns")


def solve_turns(render: Render, probes: tuple[Conversation, ...], *, bos: str) -> TurnModel | Unsolved:
    """Learn a template.

    Args:
        render: Gives the reference's prompt for messages.
        probes: Conversations the model is proved on, besides random ones.
        bos: Text of the tokenizer's BOS, empty when it has none.

    Returns:
        The model, proved on every conversation that it holds for; or why there is none.
    """
    try:
        solver = _Solver(render, bos)
        return _proved(solver.model(), render, probes)
    except _GivenUp as error:
        return error.why


class _GivenUp(Exception):
    def __init__(self, code: str, reason: str, conversation: str) -> None:
        super().__init__(reason)
        self.why = Unsolved(code=code, reason=reason, conversation=conversation)


@dataclass(frozen=True)
class _Pieces:
    """The texts around the marks of one conversation, whose roles are in the order of their contents in the prompt."""

    roles: tuple[str, ...]
    texts: tuple[str, ...]

    def pairs(self) -> list[tuple[str, str]]:
        return list(zip((START, *self.roles), (*self.roles, END), strict=True))


class _Solver:
    def __init__(self, render: Render, bos: str) -> None:
        self._render = render
        plain = self._prompt("one turn")
        if isinstance(plain, RenderRefused):
            raise _GivenUp("POSITION", f"the template refuses a single user message ({plain.message})", "one turn")
        prompts = [prompt for prompt in map(self._prompt, _CHATS) if isinstance(prompt, str)]
        self._bos = bos if bos and all(prompt.startswith(bos) for prompt in prompts) else ""
        self._moves_system = self._has_late_system()

    def model(self) -> TurnModel:
        """Give the model, not proved yet."""
        drops = self._drops_system()
        refuses = not drops and isinstance(self._prompt("system"), RenderRefused)
        names = [name for name, roles in _CHATS.items() if SYSTEM not in roles or not (drops or refuses)]
        found: dict[tuple[str, str], str] = {}
        for name in names:
            pieces = self._pieces(name)
            for pair, text in zip(pieces.pairs(), pieces.texts, strict=True):
                if found.setdefault(pair, text) != text:
                    reason = f"between {pair[0]} and {pair[1]} it writes {found[pair]!r} and {text!r}"
                    raise _GivenUp("POSITION", reason, name)
        trims = self._all_trims([name for name in _PADDED if name in names], found)
        edges = tuple(
            Edge(previous=pair[0], next=pair[1], text=text, trims_previous=trims[pair][0], trims_next=trims[pair][1])
            for pair, text in found.items()
        )
        model = TurnModel(bos=self._bos, edges=edges, drops_system=drops, moves_system=self._moves_system)
        return replace(model, empty_system=self._empty_system(model)) if model.writes_system else model

    def _prompt(self, name: str, blanks: tuple[str, str] = ("", "")) -> str | RenderRefused:
        return self._render(_messages(_CHATS[name], blanks))

    def _drops_system(self) -> bool:
        one, with_system = self._prompt("one turn"), self._prompt("system")
        roles = _CHATS["system"]
        if isinstance(one, RenderRefused) or isinstance(with_system, RenderRefused):
            return False
        return with_system == one.replace(_mark(0), _mark(len(roles) - 1))

    def _has_late_system(self) -> bool:
        """Whether the system's content stands between the last answer and the last user's content."""
        prompt = self._prompt("system and two turns")
        if isinstance(prompt, RenderRefused):
            return False
        answer, system, user = (prompt.find(_mark(place)) for place in (2, 0, 3))
        return -1 < answer < system < user

    def _pieces(self, name: str, blanks: tuple[str, str] = ("", "")) -> _Pieces:
        prompt = self._prompt(name, blanks)
        if isinstance(prompt, RenderRefused):
            raise _GivenUp("POSITION", f"the template refuses it ({prompt.message})", name)
        turns = _messages(_CHATS[name], ("", ""))
        turns = late_system(turns) if self._moves_system else turns
        rest, texts = prompt.removeprefix(self._bos), []
        for turn in turns:
            if rest.count(turn.content) != 1 or prompt.count(turn.content) != 1:
                code = "SYS_MERGE" if SYSTEM in _CHATS[name] else "POSITION"
                raise _GivenUp(code, "it drops, repeats or moves the content of a message", name)
            before, _, rest = rest.partition(turn.content)
            texts.append(before)
        return _Pieces(tuple(turn.role for turn in turns), (*texts, rest))

    def _all_trims(
        self, names: list[str], found: dict[tuple[str, str], str]
    ) -> dict[tuple[str, str], tuple[Trim, Trim]]:
        trims: dict[tuple[str, str], tuple[Trim, Trim]] = {}
        for name in names:
            for pair, trim in self._trims(name, found):
                if trims.setdefault(pair, trim) != trim:
                    raise _GivenUp("TRIM", f"blanks between {pair[0]} and {pair[1]} are kept and dropped", name)
        if trims[USER, ASSISTANT][0] != trims[USER, END][0]:
            raise _GivenUp(
                "TRIM", "the last user's content keeps blanks that an earlier one loses, or the reverse", "two turns"
            )
        return trims

    def _trims(self, name: str, found: dict[tuple[str, str], str]) -> list[tuple[tuple[str, str], tuple[Trim, Trim]]]:
        """Say for each pair what is cut off the end of the first and off the start of the second content."""
        before, behind = _BLANKS
        pieces = self._pieces(name, _BLANKS)
        trims = []
        for pair, text in zip(pieces.pairs(), pieces.texts, strict=True):
            first, second = ("" if pair[0] == START else behind), ("" if pair[1] == END else before)
            cuts = (cut for cut in _CUTS if text == cut[0].right(first) + found[pair] + cut[1].left(second))
            trim = next(cuts, None)
            if trim is None:
                raise _GivenUp("TRIM", f"blanks between {pair[0]} and {pair[1]} become {text!r}", name)
            trims.append((pair, trim))
        return trims

    def _empty_system(self, model: TurnModel) -> str | None:
        """Give what an empty system message writes in front of the user's content, None when nothing is special."""
        turns = (Message(role=SYSTEM, content=""), Message(role=USER, content=_mark(0)))
        prompt = self._render(turns)
        if isinstance(prompt, RenderRefused) or prompt == model.assemble(turns):
            return None
        end = model.edge(USER, END)
        head, mark, tail = prompt.partition(_mark(0))
        if end is None or not mark or tail != end.text or not head.startswith(self._bos):
            raise _GivenUp("POSITION", "an empty system message changes what follows the user's", "empty system")
        return head.removeprefix(self._bos)


def _proved(model: TurnModel, render: Render, probes: tuple[Conversation, ...]) -> TurnModel:
    """Compare on every conversation; a difference is allowed only where a limit that is then stated covers it."""
    chats = (*probes, *_hard_chats(), *random_walks(PROOF_WALKS, 1, alternate=True))
    for chat in chats:
        if not model.holds_for(chat.messages):
            continue
        prompt = render(chat.messages)
        if isinstance(prompt, RenderRefused):
            raise _GivenUp("POSITION", f"the template refuses it ({prompt.message})", chat.id)
        if prompt != model.assemble(chat.messages):
            limited = (replace(model, limits=(*model.limits, limit)) for limit in _LIMITS if limit not in model.limits)
            narrower = next((each for each in limited if not each.holds_for(chat.messages)), None)
            if narrower is None:
                raise _GivenUp("POSITION", "what surrounds a content depends on the content", chat.id)
            model = narrower
    return model


def _hard_chats() -> tuple[Conversation, ...]:
    """Give every shape of chat with each of its contents in turn replaced by one that templates look at."""
    return tuple(
        Conversation(id=f"{name}, {roles[place]} {content!r}", group="EXT", messages=messages)
        for name, roles in _CHATS.items()
        for place in range(len(roles))
        for content in _HARD
        for messages in [
            tuple(
                replace(m, content=content if i == place else m.content)
                for i, m in enumerate(_messages(roles, ("", "")))
            )
        ]
    )


def _mark(place: int) -> str:
    return f"xq{place}mark{place}qx"


def _messages(roles: tuple[str, ...], blanks: tuple[str, str]) -> tuple[Message, ...]:
    before, behind = blanks
    return tuple(Message(role=role, content=f"{before}{_mark(place)}{behind}") for place, role in enumerate(roles))
