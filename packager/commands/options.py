"""Arguments and options that several commands share, and the types that read them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from packager.artifacts import Quant
from packager.quants import DEFAULT_QUANTS, quant_named

F = TypeVar("F", bound=Callable[..., Any])


class QuantList(click.ParamType[tuple[Quant, ...]]):
    """`f16,q8_0,q4_k_m` as a tuple of quants, in the order of the enum, each once."""

    name = "QUANT,..."

    def convert(
        self, value: str | tuple[Quant, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Quant, ...]:
        """Give the quants, or fail naming the word that is none."""
        if isinstance(value, tuple):
            return value
        chosen = set()
        for word in value.split(","):
            quant = quant_named(word)
            if quant is None:
                self.fail(f"{word.strip()!r} is not one of {', '.join(Quant)}", param, ctx)
            chosen.add(quant)
        return tuple(quant for quant in Quant if quant in chosen)


class Place(click.Path):
    """A folder, a file, or a hub's id, as a path; what is written as a path is no id, also where nothing is there."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Give the path; of `./ORG/NAME` and `ORG/NAME/`, which pathlib makes the id `ORG/NAME`, the absolute one."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        written = str(value).startswith("./") or str(value).endswith("/")
        return path.absolute() if written and not path.exists() else path


QUANT = click.Choice([quant.value for quant in Quant], case_sensitive=False)


def base(function: F) -> F:
    """Add BASE: the Hugging Face folder that was fine-tuned."""
    return click.argument("base", type=Place())(function)


def adapter(function: F) -> F:
    """Add ADAPTER: the PEFT folder; absent for a full fine-tune."""
    return click.argument("adapter", required=False, type=Place())(function)


def more_adapters(function: F) -> F:
    """Add --adapter DIR, repeatable."""
    return click.option(
        "--adapter",
        "more_adapters",
        metavar="DIR",
        multiple=True,
        type=Place(),
        help="One more adapter, trained on the result of those before it; may be repeated, in order.",
    )(function)


def dequantize_base(function: F) -> F:
    """Add --dequantize-base."""
    return click.option(
        "--dequantize-base",
        is_flag=True,
        help="Take a base that bitsandbytes quantized to 4 bits, as 16 bits; they are written into the cache once.",
    )(function)


def model(function: F) -> F:
    """Add MODEL: a checkpoint's folder, a GGUF file, a template file, a named template, or the name of a model in Ollama."""
    return click.argument("model", metavar="MODEL")(function)


def conversations(function: F) -> F:
    """Add --conversations, --walks and --seed: more than the probe conversations."""
    for option in (
        click.option(
            "--seed",
            metavar="S",
            type=click.IntRange(0),
            default=0,
            show_default=True,
            help="Which random conversations.",
        ),
        click.option("--walks", metavar="N", type=click.IntRange(0), default=0, help="Also N random conversations."),
        click.option(
            "--conversations",
            metavar="FILE",
            type=click.Path(path_type=Path),
            help="Also the conversations of a .jsonl file: OpenAI messages, ShareGPT or Alpaca, one object a line.",
        ),
    ):
        function = option(function)
    return function


def output(function: F) -> F:
    """Add -o DIR: where results appear."""
    return click.option(
        "-o", "--output", metavar="DIR", required=True, type=click.Path(path_type=Path), help="Folder for the results."
    )(function)


def quants(function: F) -> F:
    """Add --quant f16,q8_0,q4_k_m."""
    return click.option(
        "--quant",
        "quants",
        type=QuantList(),
        default=",".join(DEFAULT_QUANTS),
        show_default=True,
        help="Weight types to write, separated by commas: any of llama.cpp's, by its name (docs/quants.md).",
    )(function)


def importance(function: F) -> F:
    """Add --imatrix FILE and --calibrate FILE: how much each column of a weight counts when it is rounded."""
    for option in (
        click.option(
            "--calibrate",
            metavar="FILE",
            type=click.Path(path_type=Path),
            help="Compute the importance matrix from your own conversations, a .jsonl file with answers.",
        ),
        click.option(
            "--imatrix",
            metavar="FILE",
            type=click.Path(path_type=Path),
            help="Importance matrix of llama.cpp for the quantized types (docs/quants.md).",
        ),
    ):
        function = option(function)
    return function


def keep_hf(function: F) -> F:
    """Add --keep-hf."""
    return click.option(
        "--keep-hf", is_flag=True, help="Write the merged Hugging Face checkpoint as well, into DIR/hf."
    )(function)


def name(function: F) -> F:
    """Add --name NAME, optional."""
    return click.option("--name", metavar="NAME", help="Name in Ollama; each quant becomes NAME:QUANT.")(function)


def template(function: F) -> F:
    """Add --template FILE|NAME."""
    return click.option(
        "--template",
        "template_file",
        metavar="FILE|NAME",
        help="Chat template that the model was trained with: a Jinja file, or a name of `packager template list`; "
        "by default the adapter's, the one that its trainer's configuration names, or the base's.",
    )(function)


def llama_cpp(function: F) -> F:
    """Add --llama-cpp DIR."""
    return click.option(
        "--llama-cpp",
        metavar="DIR",
        type=click.Path(path_type=Path),
        help="A llama.cpp source tree to take the converter from; by default the one of the installed llama-cpp-python.",
    )(function)


def replace(function: F) -> F:
    """Add --replace."""
    return click.option("--replace", is_flag=True, help="Replace models of the same name in Ollama.")(function)


def quiet(function: F) -> F:
    """Add -q: no progress."""
    return click.option("-q", "--quiet", is_flag=True, help="Show results and problems only.")(function)


def as_json(function: F) -> F:
    """Add --json: the result as one JSON document on stdout."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(function)


class ByteSize(click.ParamType[int]):
    """`8GB` as a number of bytes, in powers of 1000 as the rest of the program counts."""

    name = "SIZE"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Give the bytes, or fail showing the text."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)b?", value.strip().lower())
        if match is None:
            self.fail(f"{value!r} is not a size such as 8GB or 500MB", param, ctx)
        return int(float(match[1]) * 1000 ** " kmgt".index(match[2] or " "))


def data(function: F) -> F:
    """Add --data FILE and --data-rows N: the user's own rows, beside the probe conversations."""
    for option in (
        click.option(
            "--data-rows",
            metavar="N",
            type=click.IntRange(1),
            default=16,
            show_default=True,
            help="How many rows of --data, from its start.",
        ),
        click.option(
            "--data",
            metavar="FILE",
            type=click.Path(path_type=Path),
            help="Also compare along your own data, a .jsonl file with answers: OpenAI messages, ShareGPT or Alpaca.",
        ),
    ):
        function = option(function)
    return function


def reference_memory(function: F) -> F:
    """Add --reference-memory SIZE."""
    return click.option(
        "--reference-memory",
        "reference_memory_bytes",
        type=ByteSize(),
        help="Most memory for the reference's weights, for example 8GB; the rest is read from the disk. By default all that "
        "is free.",
    )(function)


class Gate(click.ParamType[tuple[str, float]]):
    """`q4_k_m.mean_kl=0.5` as a name and a number."""

    name = "QUANT.MEASURE=LIMIT"

    def convert(
        self, value: str | tuple[str, float], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        """Give the measure's name and its limit, or fail showing the text."""
        if isinstance(value, tuple):
            return value
        key, _, limit = value.partition("=")
        try:
            return key.strip(), float(limit)
        except ValueError:
            self.fail(f"{value!r} is not of the form {self.name}", param, ctx)


def gates(function: F) -> F:
    """Add --gate QUANT.MEASURE=LIMIT, repeatable."""
    return click.option(
        "--gate",
        "gates",
        type=Gate(),
        multiple=True,
        help="Change a threshold of the verification, for example q4_k_m.mean_kl=0.5 (docs/gates.md).",
    )(function)
