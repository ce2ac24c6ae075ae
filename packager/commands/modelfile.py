"""`packager modelfile`: the Modelfile of a GGUF."""

from __future__ import annotations

from pathlib import Path

import click

from packager.commands import options, source_options


@click.command(short_help="Write the Modelfile of a GGUF.")
@options.base
@options.adapter
@options.output
@click.option(
    "--gguf", metavar="FILE", type=click.Path(path_type=Path), help="The GGUF it is for; by default the one in DIR."
)
@options.template
@source_options.sources
@options.as_json
@options.quiet
def modelfile(
    base: Path,
    adapter: Path | None,
    output: Path,
    gguf: Path | None,
    template_file: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write a Modelfile for a GGUF made from BASE and ADAPTER.

    \b
    Example:
      packager modelfile ./Qwen2.5-0.5B-Instruct ./my-lora -o ./out --gguf ./out/my-model-494M-Q8_0.gguf
    """
    from packager.console import Console
    from packager.single_stages import modelfile as run

    with Console(quiet=quiet, as_json=as_json) as console:
        console.files(run(base, adapter, output, gguf=gguf, template_file=template_file, emit=console.emit))
