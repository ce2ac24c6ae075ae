"""`packager register`: put the GGUF files of a build folder into Ollama."""

from __future__ import annotations

from pathlib import Path

import click

from packager.commands import options


@click.command(short_help="Put a build folder into Ollama.")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--name", metavar="NAME", required=True, help="Name in Ollama; each quant becomes NAME:QUANT.")
@options.replace
@options.as_json
@options.quiet
def register(folder: Path, name: str, replace: bool, as_json: bool, quiet: bool) -> None:
    """Register every GGUF of the build folder FOLDER in Ollama, with the parameters of its Modelfile.

    \b
    Example:
      packager register ./out --name my-model
    """
    from packager.console import Console
    from packager.single_stages import register as run

    with Console(quiet=quiet, as_json=as_json) as console:
        console.registered(run(folder, name, replace=replace, emit=console.emit))
