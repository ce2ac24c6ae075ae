"""A Modelfile's text from its values, and its values from the text, by the rules of Ollama's own parser.

The law: `parse_modelfile(render_modelfile(x)) == x`, unless the text says in a comment what it could not carry. The text is
not a safe carrier: the parser drops every character that Go does not call printable (U+3000 of Chinese texts, joiners of
emoji, form feeds), and a line that ends with three quotes ends the value. What has to be exact goes through Ollama's API.

Source: ollama 0.34.0, `parser/parser.go` (see `packager.formats.modelfile_parser`), `api/types.go` (`FormatParams`).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields

from packager.artifacts import Modelfile, OllamaParameters
from packager.errors import InputInvalid
from packager.formats.modelfile_parser import Command, dropped_characters, parse_commands

# The instructions alone, for callers without a skeleton of modelfiles/.
PLAIN_SKELETON = (
    "FROM $gguf\nTEMPLATE $template\n"
    + "".join(f"PARAMETER {field.name} ${field.name}\n" for field in fields(OllamaParameters))
    + "LICENSE $license\n"
)
_PLACEHOLDER = re.compile(r"\$([a-z_]+)")
_WHOLE = re.compile(r"[+-]?[0-9]+")
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_NAMES = {"FROM": "model", "TEMPLATE": "template", "PARAMETER stop": "stop", "LICENSE": "license"}
_WHOLE_NAMES = ("num_ctx", "top_k")


@dataclass(frozen=True, kw_only=True)
class _Value:
    """A value in the form that stands in the text, None when there is no such form, and what a comment says about it."""

    form: str | None
    remark: str = ""


def render_modelfile(modelfile: Modelfile, skeleton: str = PLAIN_SKELETON) -> str:
    """Give the text of a Modelfile.

    Args:
        modelfile: The values.
        skeleton: A text of `modelfiles/`, with `$names` where values go.

    Raises:
        InputInvalid: The GGUF's name or a number has no form in a Modelfile, or the skeleton has an unknown `$name`.
    """
    values = _values_by_name(modelfile)
    blocks = [_filled(block, values) for block in skeleton.rstrip("\n").split("\n\n")]
    return "\n\n".join(block for block in blocks if block) + "\n"


def parse_modelfile(text: str) -> Modelfile:
    """Give the values of a Modelfile.

    Raises:
        InputInvalid: Not a Modelfile, or it has an instruction that `Modelfile` has no place for (SYSTEM, ADAPTER, ...).
    """
    gguf: str | None = None
    license_text: str | None = None
    template: str | None = None
    parameters: dict[str, str] = {}
    stops: list[str] = []
    for command in parse_commands(text):
        match command.name:
            case "model":
                gguf = command.args.removeprefix("./")
            case "template" if template is None:
                template = command.args
            case "license" if license_text is None:
                license_text = command.args
            case "stop":
                stops.append(command.args)
            case name if name in _parameter_names():
                parameters[name] = command.args
            case name:
                raise InputInvalid(
                    f"Modelfile: {name} has no place in a Modelfile of packager", hint="Remove the line."
                )
    if gguf is None:
        raise InputInvalid("Modelfile: no FROM line")
    whole = {name: _whole(name, parameters[name]) for name in _WHOLE_NAMES if name in parameters}
    real = {name: _real(name, value) for name, value in parameters.items() if name not in _WHOLE_NAMES}
    return Modelfile(
        gguf=gguf,
        parameters=OllamaParameters(
            stop=tuple(stops),
            num_ctx=whole.get("num_ctx"),
            top_k=whole.get("top_k"),
            temperature=real.get("temperature"),
            top_p=real.get("top_p"),
            min_p=real.get("min_p"),
            repeat_penalty=real.get("repeat_penalty"),
        ),
        license_text=license_text,
        template=template,
    )


def _values_by_name(modelfile: Modelfile) -> dict[str, tuple[_Value, ...]]:
    path = f"./{modelfile.gguf}"
    gguf = _first_exact("FROM", (path, f'"{path}"', f'"""{path}"""'), path)
    if gguf is None:
        raise InputInvalid(f"a Modelfile cannot name the file {modelfile.gguf!r}", hint="Choose another --name.")
    parameters = modelfile.parameters
    values = {
        "gguf": (_Value(form=gguf),),
        "stop": tuple(_stop(stop) for stop in parameters.stop),
        "template": () if modelfile.template is None else (_template(modelfile.template),),
        "license": () if modelfile.license_text is None else (_license(modelfile.license_text),),
    }
    for name in _parameter_names():
        value = getattr(parameters, name)
        if isinstance(value, float) and not math.isfinite(value):
            raise InputInvalid(
                f"PARAMETER {name} cannot be {value}", hint="Correct generation_config.json of the base."
            )
        values[name] = () if value is None else (_Value(form=repr(value)),)
    return values


def _stop(text: str) -> _Value:
    form = _first_exact("PARAMETER stop", _quoted(text), text)
    remark = "" if form else f"Not carried, because Ollama's parser would change it: the stop {text!a}."
    return _Value(form=form, remark=remark)


def _template(text: str) -> _Value:
    form = _first_exact("TEMPLATE", _quoted(text), text)
    remark = "" if form else "Not carried, because Ollama's parser would change it: the template."
    return _Value(form=form, remark=remark)


def _license(text: str) -> _Value:
    form = _first_exact("LICENSE", _quoted(text), text)
    if form is not None:
        return _Value(form=form)
    dropped = dropped_characters(text)
    kept = "".join(character for character in text if character not in dropped)
    form = _first_exact("LICENSE", _quoted(kept), kept)
    if form is None:
        return _Value(form=None, remark="Not carried, because Ollama's parser would cut it: the licence.")
    names = " ".join(f"U+{ord(character):04X}" for character in dropped)
    return _Value(form=form, remark=f"The licence below lacks the characters {names}, which Ollama's parser drops.")


def _quoted(text: str) -> tuple[str, ...]:
    triple, single = f'"""{text}"""', f'"{text}"'
    return (triple, single) if "\n" in text else (single, triple)


def _first_exact(instruction: str, forms: tuple[str, ...], value: str) -> str | None:
    """Give the first form from which Ollama's parser reads this value and nothing else."""
    expected = Command(name=_NAMES[instruction], args=value)
    # Ollama refuses a Modelfile without FROM, so one stands in front of every other instruction.
    before = () if instruction == "FROM" else (Command(name="model", args="x"),)
    for form in forms:
        try:
            found = parse_commands(f"{'FROM x' if before else ''}\n{instruction} {form}\n")
        except InputInvalid:
            continue
        if found == (*before, expected):
            return form
    return None


def _filled(block: str, values: dict[str, tuple[_Value, ...]]) -> str:
    """Fill one block of a skeleton; a comment goes when every instruction below it has no value."""
    filled: list[str] = []
    comments: list[str] = []
    below = False  # whether the comments at hand have an instruction below them
    for line in block.split("\n"):
        if line.startswith("#"):
            comments = [line] if below else [*comments, line]
            below = False
            continue
        below = True
        written = _filled_line(line, values)
        if written:
            filled += [*comments, *written]
            comments = []
    return "\n".join(filled if below else [*filled, *comments])


def _filled_line(line: str, values: dict[str, tuple[_Value, ...]]) -> list[str]:
    found = _PLACEHOLDER.search(line)
    if found is None:
        return [line]
    name = found.group(1)
    if name not in values:
        raise InputInvalid(f"modelfiles/: no value is called ${name}", hint=f"Use one of {', '.join(sorted(values))}.")
    written: list[str] = []
    for value in values[name]:
        if value.remark:
            written.append(f"# {value.remark}")
        if value.form is not None:
            written.append(line[: found.start()] + value.form + line[found.end() :])
    return written


def _parameter_names() -> tuple[str, ...]:
    return tuple(field.name for field in fields(OllamaParameters) if field.name != "stop")


def _whole(name: str, text: str) -> int:
    if not _WHOLE.fullmatch(text):
        raise InputInvalid(f"Modelfile: PARAMETER {name} is {text!r}, expected a whole number")
    return int(text)


def _real(name: str, text: str) -> float:
    if not _DECIMAL.fullmatch(text):
        raise InputInvalid(f"Modelfile: PARAMETER {name} is {text!r}, expected a number")
    return float(text)
