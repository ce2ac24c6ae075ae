"""`packager plan`: what a build would do, and every problem it would meet."""

from __future__ import annotations

from pathlib import Path

import click

from packager.artifacts import Quant
from packager.commands import options, source_options


@click.command(short_help="What a build would do, and every problem it would meet.")
@options.base
@options.adapter
@options.more_adapters
@options.dequantize_base
@options.output
@options.quants
@options.importance
@options.keep_hf
@options.name
@options.template
@source_options.sources
@options.llama_cpp
@options.replace
@click.option("--no-register", is_flag=True, help="Do not register in Ollama.")
@click.option("--no-verify", is_flag=True, help="Do not compare with the reference.")
@options.as_json
def plan(
    base: Path,
    adapter: Path | None,
    more_adapters: tuple[Path, ...],
    dequantize_base: bool,
    output: Path,
    quants: tuple[Quant, ...],
    imatrix: Path | None,
    calibrate: Path | None,
    keep_hf: bool,
    name: str | None,
    template_file: str | None,
    llama_cpp: Path | None,
    replace: bool,
    no_register: bool,
    no_verify: bool,
    as_json: bool,
) -> None:
    """Say what `packager build` with the same arguments would do. Writes nothing.

    Lists every problem it finds, with the exit code of the first.

    \b
    Example:
      packager plan ./Qwen2.5-0.5B-Instruct ./my-lora -o ./out --json
    """
    from packager.console import Console
    from packager.plan import BuildRequest, make_plan

    request = BuildRequest(
        base=base,
        adapter=adapter,
        output=output,
        quants=quants,
        imatrix=imatrix,
        calibrate=calibrate,
        keep_hf=keep_hf,
        name=name,
        template_file=template_file,
        llama_cpp=llama_cpp,
        register=not no_register,
        verify=not no_verify,
        replace=replace,
        more_adapters=more_adapters,
        dequantize_base=dequantize_base,
    )
    with Console(as_json=as_json) as console:
        console.plan(make_plan(request).summary)
