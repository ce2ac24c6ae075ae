"""`packager quantize`: one Hugging Face checkpoint in, GGUF files out."""

from __future__ import annotations

from pathlib import Path

import click

from packager.artifacts import Quant
from packager.commands import options, source_options


@click.command(short_help="Write the GGUF files of a checkpoint.")
@click.argument("source", type=options.Place())
@options.more_adapters
@options.dequantize_base
@options.output
@options.quants
@options.importance
@options.keep_hf
@options.name
@options.template
@source_options.checkpoint_source
@options.llama_cpp
@options.as_json
@options.quiet
def quantize(
    source: Path,
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
    as_json: bool,
    quiet: bool,
) -> None:
    """Convert the checkpoint SOURCE to GGUF files, all in one pass over its weights.

    \b
    Example:
      packager quantize ./merged -o ./out --quant q8_0,q4_k_m
    """
    from packager.console import Console
    from packager.plan import BuildRequest
    from packager.single_stages import quantize as run

    request = BuildRequest(
        base=source,
        adapter=None,
        output=output,
        quants=quants,
        imatrix=imatrix,
        calibrate=calibrate,
        keep_hf=keep_hf,
        name=name,
        template_file=template_file,
        llama_cpp=llama_cpp,
        register=False,
        verify=False,
        more_adapters=more_adapters,
        dequantize_base=dequantize_base,
    )
    with Console(quiet=quiet, as_json=as_json) as console:
        console.ggufs(run(request, emit=console.emit))
