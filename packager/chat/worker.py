"""The process that runs chat templates: JSON requests in, JSON answers out, one line each.

A template is a program from the internet, and Jinja's sandbox bounds neither time nor memory. So this runs as a child with
limits of its own, knows nothing of packager, and imports only jinja2 and the standard library.

Rendering is transformers' own, rule for rule, so that a difference in text is a difference between templates.

Source: transformers 5.23, `utils/chat_template_utils.py`, `_cached_compile_jinja_template` and `render_jinja_template`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import cast

import jinja2
import jinja2.exceptions
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
import jinja2.utils

MEMORY_BYTES = 512 << 20
CPU_SECONDS = 3
OUTPUT_CHARACTERS = 4 << 20
_LOADING_NODES = (jinja2.nodes.Import, jinja2.nodes.FromImport, jinja2.nodes.Include, jinja2.nodes.Extends)
_RENDER_ERRORS = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RuntimeError, AssertionError)

Answer = dict[str, object]


class Refused(jinja2.TemplateError):
    """What `raise_exception` raises: the template's own way to say no."""


class TooMuch(Exception):
    """The template writes more text than any prompt has."""


def serve() -> None:
    """Say that this process is ready, then answer requests from stdin until it ends."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        limit_processor_time()
        sys.stdout.write(json.dumps(answer(json.loads(line))) + "\n")
        sys.stdout.flush()


def answer(request: Answer) -> Answer:
    """Give the answer to one request: `{"text"}`, `{"refused"}`, `{"invalid"}`, `{"unsafe"}`, or what `inspect` found."""
    try:
        return (
            inspect(cast(str, request["template"])) if request["action"] == "inspect" else {"text": rendered(request)}
        )
    except jinja2.TemplateSyntaxError as error:
        return {"invalid": f"line {error.lineno}: {error.message}"}
    except (MemoryError, RecursionError, OverflowError, TooMuch, jinja2.exceptions.SecurityError) as error:
        return {"unsafe": _excess(error)}
    except Refused as error:
        return {"refused": str(error)}
    except (jinja2.TemplateError, *_RENDER_ERRORS) as error:
        return {"refused": f"{type(error).__name__}: {error}"}


def inspect(template: str) -> Answer:
    """Give the names a template takes from outside and the string constants it contains."""
    tree = environment().parse(template)
    if next(tree.find_all(_LOADING_NODES), None) is not None:
        return {"unsafe": "loads another template"}
    constants = {node.value for node in tree.find_all(jinja2.nodes.Const) if isinstance(node.value, str)}
    return {"free": sorted(jinja2.meta.find_undeclared_variables(tree)), "constants": sorted(constants)}


def rendered(request: Answer) -> str:
    """Render a template; `variables` are what it sees, `now` replaces the clock where it is set."""
    now = cast("str | None", request["now"])
    template = compiled(cast(str, request["template"]), now)
    parts: list[str] = []
    size = 0
    for part in template.generate(cast("dict[str, object]", request["variables"])):
        parts.append(part)
        size += len(part)
        if size > OUTPUT_CHARACTERS:
            raise TooMuch
    return "".join(parts)


@lru_cache(maxsize=8)
def compiled(template: str, now: str | None) -> jinja2.Template:
    """Compile a template, once for each text and clock."""
    made = environment()

    def strftime_now(format: str) -> str:  # noqa: A002 # transformers' own parameter name
        return (datetime.fromisoformat(now) if now else datetime.now()).strftime(format)

    made.globals["strftime_now"] = strftime_now
    return made.from_string(template)


def environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    """Build the environment that transformers renders chat templates in."""
    made = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = tojson
    made.globals["raise_exception"] = raise_exception
    made.globals["dict"] = TemplateDict()
    made.globals["namespace"] = TemplateNamespace
    return made


class GenerationBlock(jinja2.ext.Extension):
    """`{% generation %} ... {% endgeneration %}`: marks the assistant's text in training, writes it unchanged here."""

    tags = {"generation"}  # noqa: RUF012 # the base class declares it so

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        """Turn the block into a call that gives its own text."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_unchanged"), [], [], body).set_lineno(line)

    def _unchanged(self, caller: Callable[[], str]) -> str:
        return caller()


class TemplateDict:
    """`dict` for templates, without the type's own attributes."""

    def __call__(self, *args: object, **kwargs: object) -> dict[object, object]:
        """Build a dictionary as `dict` does."""
        return cast("dict[object, object]", dict(*args, **kwargs))

    def fromkeys(self, *args: object) -> dict[object, object]:
        """Build a dictionary as `dict.fromkeys` does."""
        return cast("dict[object, object]", dict.fromkeys(*args))  # type: ignore[call-overload]


class TemplateNamespace(jinja2.utils.Namespace):
    """`namespace` for templates, closed to names that begin with an underscore."""

    def __init__(*args: object, **kwargs: object) -> None:  # `namespace(self=...)` must work
        for name in dict(*args[1:], **kwargs):
            _open_name(name)
        jinja2.utils.Namespace.__init__(*args, **kwargs)

    def __setitem__(self, name: str, value: object) -> None:
        """Store an attribute."""
        _open_name(name)
        super().__setitem__(name, value)


def tojson(
    x: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Give JSON text without Jinja's HTML escapes."""
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message: object) -> None:
    """Refuse the conversation."""
    raise Refused(str(message))


def limit_memory() -> None:
    """Cap this process's address space, where the system can."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):  # Windows has no limits, macOS refuses RLIMIT_AS
        return


def limit_processor_time() -> None:
    """Let this process use `CPU_SECONDS` from now on, where the system can."""
    try:
        import resource

        usage = resource.getrusage(resource.RUSAGE_SELF)
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (int(usage.ru_utime + usage.ru_stime) + CPU_SECONDS, hard))
    except (ImportError, ValueError, OSError):
        return


def _open_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"namespace attribute {name!r}")


def _excess(error: Exception) -> str:
    if isinstance(error, jinja2.exceptions.SecurityError):
        return f"leaves the sandbox ({error})"
    if isinstance(error, MemoryError):
        return f"needs more than {MEMORY_BYTES >> 20} MiB of memory"
    if isinstance(error, RecursionError):
        return "recurses without end"
    if isinstance(error, OverflowError):
        return f"asks for too much ({error})"
    return f"writes more than {OUTPUT_CHARACTERS} characters"


if __name__ == "__main__":
    limit_memory()
    serve()
