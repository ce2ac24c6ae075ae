"""Every error a user can meet, as a small tree ordered by who can fix it.

An error carries one line of cause, one line of what to do next, and the exit code of the program. Foreign exceptions are
translated into one of these where they arise; only `packager.cli` prints them.

Worked example:
    >>> error = InputInvalid("./lora/adapter_config.json: not JSON (line 3)", hint="Save the adapter again.")
    >>> error.exit_code
    3
"""

from __future__ import annotations

from typing import ClassVar

VERIFICATION_FAILED = 5  # the artefacts exist and a gate did not pass: a verdict, not an exception
INTERRUPTED = 130
TERMINATED = 143


class PackagerError(Exception):
    """What went wrong in one line, and what to do about it in another.

    Args:
        message: The cause; names the file and, where two values disagree, both.
        hint: The next action, best a command. Empty when there is none.
        lines: What the message speaks of, where one line cannot show it: a diff.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "", lines: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.lines = lines


class Usage(PackagerError):
    """The command line asks for something that makes no sense."""

    exit_code = 2


class InputInvalid(PackagerError):
    """A file of the user's is missing, damaged, or does not fit another."""

    exit_code = 3


class UnsafeInput(PackagerError):
    """A file of the user's would run code, or reach out of its folder."""

    exit_code = 4


class IntegrityMismatch(PackagerError):
    """Bytes do not have the digest that was recorded for them."""

    exit_code = 6


class NoSpace(PackagerError):
    """A disk is full, or would be."""

    exit_code = 7


class Locked(PackagerError):
    """Another process is writing the same build folder."""

    exit_code = 8


class ToolMissing(PackagerError):
    """A program or package that this step needs is not installed."""

    exit_code = 9


class OllamaFailed(PackagerError):
    """Ollama could not be reached, is too old, or refused."""

    exit_code = 10


class HubFailed(PackagerError):
    """A download did not succeed."""

    exit_code = 11


class Unsupported(PackagerError):
    """An architecture, an adapter kind or a template that is not handled."""

    exit_code = 12


class PlanRefused(PackagerError):
    """The plan found problems; all of them, in the order they were found.

    The exit code is the first problem's, so that one problem alone keeps its own code.
    """

    def __init__(self, problems: tuple[PackagerError, ...]) -> None:
        first = problems[0]
        super().__init__(first.message, hint=first.hint, lines=first.lines)
        self.problems = problems
        self.exit_code = first.exit_code  # type: ignore[misc]  # the one class whose code depends on its content
