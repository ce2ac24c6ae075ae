"""What every command that reads a model does with BASE and ADAPTER, in one place: they become folders before it runs.

Each decorator adds --checkpoint and --allow-pickle, and gives the command below it folders in place of what was typed. Where a
LLaMA-Factory yaml was typed, the command gets the base, the adapters and the template that it names.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from packager.errors import Unsupported, Usage

if TYPE_CHECKING:
    from packager.sources.resolve import Sources

F = TypeVar("F", bound=Callable[..., Any])
Arguments = dict[str, Any]  # a command's own, by name, as click gives them


class Checkpoint(click.ParamType[str]):
    """`500`, `best` or `newest`."""

    name = "N|best|newest"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Give the word, or fail showing the text."""
        if re.fullmatch(r"\d{1,12}|best|newest", value, re.ASCII) is None:
            self.fail(f"{value!r} is not a number, best or newest", param, ctx)
        return value


def sources(function: F) -> F:
    """Read BASE and ADAPTER."""
    return _wrapped(function, lambda arguments: _read(arguments, "base"))


def checkpoint_source(function: F) -> F:
    """Read SOURCE, a whole model."""
    return _wrapped(function, lambda arguments: _read(arguments, "source"))


def subject(function: F) -> F:
    """Read MODEL where it is a checkpoint, or else the checkpoint behind --reference."""

    def read(arguments: Arguments) -> None:
        from packager.sources.llamafactory import is_llamafactory_file

        model = arguments["model"]
        if Path(model).is_dir() or is_llamafactory_file(Path(model)) or model.startswith(("hf:", "ms:")):
            _read(arguments, "model")
            arguments["model"] = str(arguments["model"])
        elif arguments.get("reference") is not None:
            _read(arguments, "reference")

    return _wrapped(function, read)


def reference(function: F) -> F:
    """Read the BASE[+ADAPTER] behind --reference; the command gets a `ReferenceName` of folders, None without one."""

    def read(arguments: Arguments) -> None:
        from packager.formats.reference_name import ReferenceName
        from packager.sources.hub import is_hub_name

        typed = arguments["reference"]
        if typed is None:
            return
        named = ReferenceName.parse(typed, is_elsewhere=is_hub_name)
        apart = arguments.get("adapter")
        if apart is not None and named.adapter is not None:
            raise Usage(f"--reference {typed} and --adapter {apart} name two adapters", hint="Leave one of them out.")
        chosen: Arguments = {**arguments, "base": named.base, "adapter": named.adapter or apart}
        _read(chosen, "base")
        arguments["reference"] = ReferenceName(base=chosen["base"], adapter=chosen["adapter"])
        arguments["template_file"] = chosen["template_file"]

    return _wrapped(function, read)


def _wrapped(function: F, read: Callable[[Arguments], None]) -> F:
    @click.option(
        "--allow-pickle",
        is_flag=True,
        help="Convert weights that are pickles (.bin, .pth), in a process that can do nothing else.",
    )
    @click.option(
        "--checkpoint",
        type=Checkpoint(),
        metavar="N|best|newest",
        help="Which checkpoint-N of a trainer's output folder; by default its final model, else the best that it recorded, "
        "else the newest.",
    )
    @wraps(function)
    def command(**arguments: Any) -> Any:  # whatever click was told to give
        read(arguments)
        return function(**{name: value for name, value in arguments.items() if name not in _OWN})

    return command  # type: ignore[return-value]  # it is called with two arguments more


_OWN = ("checkpoint", "allow_pickle")


def _read(arguments: Arguments, base: str) -> None:
    """Replace what was typed by folders; `base` is the argument that the base stands in."""
    from packager.console import Console
    from packager.sources.resolve import Typed, resolve

    further = arguments.get("more_adapters", ())
    first = arguments.get("adapter")
    typed = Typed(
        base=Path(arguments[base]),
        adapters=(first, *further) if first is not None else further,
        template=arguments.get("template_file"),
        checkpoint=arguments["checkpoint"],
        allow_pickle=arguments["allow_pickle"],
    )
    with Console(quiet=arguments.get("quiet", False), as_json=arguments.get("as_json", False)) as console:
        found = resolve(typed, emit=console.emit)
    arguments[base] = found.base
    arguments["template_file"] = found.template
    _give_adapters(arguments, base, found)


def _give_adapters(arguments: Arguments, base: str, found: Sources) -> None:
    """Give a command the adapters that it has arguments for, in order; one that it has none for is refused by name."""
    rest = list(found.adapters)
    if "adapter" in arguments:
        arguments["adapter"] = rest.pop(0) if rest else None
    if "more_adapters" in arguments:
        arguments["more_adapters"], rest = tuple(rest), []
    if rest and "adapter" in arguments:
        raise Unsupported(
            f"{rest[0]}: a second adapter, after {found.adapters[0]}, and this command takes one",
            hint="Merge the first one: packager merge BASE ADAPTER -o DIR, and pass DIR as BASE.",
        )
    if rest:
        raise Usage(
            f"{rest[0]} is an adapter, and this command takes a whole model",
            hint=f"packager build {arguments[base]} {rest[0]} -o DIR",
        )
