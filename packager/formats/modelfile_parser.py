"""The instructions in a Modelfile, as Ollama's own parser finds them.

A port, state for state, so that what packager writes can be read back before Ollama does. Unlike a parser of one's own, it
drops every character that Go does not call printable, and ends a quoted value at a line that ends with the quote.

Source: ollama 0.34.0, `parser/parser.go` (`ParseFile`, `parseRuneForState`, `unquote`).
"""

from __future__ import annotations

from dataclasses import dataclass

from packager.errors import InputInvalid

_COMMANDS = (
    "from", "license", "template", "system", "adapter", "draft", "renderer", "parser", "parameter", "message", "requires",
)  # fmt: skip
_ROLES = ("system", "user", "assistant")
_BLANKS = " \t\r\n"


@dataclass(frozen=True, kw_only=True)
class Command:
    """One instruction as Ollama's parser gives it: `name` is `model` for FROM and the parameter's own for PARAMETER."""

    name: str
    args: str


def parse_commands(text: str) -> tuple[Command, ...]:
    """Give the instructions of a Modelfile exactly as Ollama's parser does.

    Raises:
        InputInvalid: What Ollama refuses, with its words and the line.
    """
    parser = _Parser()
    for character in text.removeprefix("\ufeff"):
        parser.feed(character)
    return parser.finish()


def dropped_characters(text: str) -> tuple[str, ...]:
    """Give the characters of a text that Ollama's parser drops, each once, in the order they appear."""
    return tuple(dict.fromkeys(c for c in text if not c.isprintable() and c not in _BLANKS))


class _Parser:
    """Ollama's state machine, one character at a time. `_state` is nil, name, value, parameter, message or comment."""

    def __init__(self) -> None:
        self._state = "nil"
        self._buffer: list[str] = []
        self._name = ""
        self._role = ""
        self._line = 1
        self._commands: list[Command] = []

    def feed(self, character: str) -> None:
        if character in "\r\n":
            self._line += 1
        state, kept = self._next(character)
        if state != self._state:
            state = self._leave(state)
            if self._state == "value" and not self._close_value(character):
                return
            self._buffer.clear()
            self._state = state
        # str.isprintable and Go's strconv.IsPrint are the same rule; only their Unicode versions can differ.
        if kept and kept.isprintable():
            self._buffer.append(kept)

    def finish(self) -> tuple[Command, ...]:
        if self._state == "value":
            value = _unquoted(self._text())
            if value is None:
                raise InputInvalid("Modelfile: a quoted value does not end")
            self._append(value)
        elif self._state not in ("nil", "comment"):
            raise InputInvalid(f"Modelfile: ends in the middle of {self._text()!r}")
        if not any(command.name == "model" for command in self._commands):
            raise InputInvalid("Modelfile: no FROM line")
        return tuple(self._commands)

    def _next(self, character: str) -> tuple[str, str]:
        """Give the state that a character leads to, and the character if it belongs to the text, else nothing."""
        blank, newline = character in " \t", character in "\r\n"
        match self._state:
            case "nil" if character == "#":
                return "comment", ""
            case "nil":
                return ("nil", "") if blank or newline else ("name", character)
            case "comment":
                return ("nil" if newline else "comment"), ""
            case "value":
                return ("nil" if blank or newline else "value"), character
        return self._next_in_word(character, blank=blank)

    def _next_in_word(self, character: str, *, blank: bool) -> tuple[str, str]:
        letter = character.isascii() and character.isalpha()
        if letter or (
            self._state == "parameter" and (character == "_" or (character.isascii() and character.isdigit()))
        ):
            return self._state, character
        if blank:
            return "value", ""
        if self._state == "name":
            raise self._wrong(f"command must be one of {', '.join(_COMMANDS)}")
        raise self._wrong(f"unexpected {character!r} after {self._text()!r}")

    def _leave(self, state: str) -> str:
        """Do what the end of a name, parameter or role asks for; give the state that follows."""
        text = self._text()
        if self._state == "name":
            command = text.lower()
            if command not in _COMMANDS:
                raise self._wrong(f"command must be one of {', '.join(_COMMANDS)}")
            if command == "from":
                self._name = "model"
            elif command == "parameter":
                return "parameter"
            else:
                self._name = command
                return "message" if command == "message" else state
        elif self._state == "parameter":
            self._name = text
        elif self._state == "message":
            if text not in _ROLES:
                raise self._wrong('message role must be one of "system", "user", or "assistant"')
            self._role = text
        return state

    def _close_value(self, character: str) -> bool:
        """End a value at a newline, unless a quote is open; blanks never end one."""
        value = _unquoted(self._text())
        if value is None or character in " \t":
            self._buffer.append(character)
            return False
        self._append(value)
        return True

    def _append(self, value: str) -> None:
        if self._role:
            value, self._role = f"{self._role}: {value}", ""
        self._commands.append(Command(name=self._name, args=value))

    def _text(self) -> str:
        return "".join(self._buffer)

    def _wrong(self, message: str) -> InputInvalid:
        return InputInvalid(f"Modelfile, line {self._line}: {message}")


def _unquoted(text: str) -> str | None:
    """Give the value without its quotes, None while a quote is open."""
    text = text.strip(_BLANKS)
    for quote in ('"""', '"'):
        if text.startswith(quote):
            closed = len(text) >= 2 * len(quote) and text.endswith(quote)
            return text[len(quote) : -len(quote)] if closed else None
    return text
