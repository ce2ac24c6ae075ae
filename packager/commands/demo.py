"""`packager demo`: everything, on a small real model made on the spot."""

from __future__ import annotations

from pathlib import Path

import click

from packager.commands import options


@click.command(short_help="Everything, on a small real model made on the spot.")
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    default="packager-demo",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder for the base, the adapter and the build.",
)
@click.option("--name", metavar="NAME", default="packy", show_default=True, help="Name in Ollama.")
@options.replace
@options.as_json
@options.quiet
def demo(output: Path, name: str, replace: bool, as_json: bool, quiet: bool) -> int:
    """Make a small real model, fine-tune it, package it, verify it, and ask it its name before and after.

    Nothing is downloaded from a model hub; without Ollama the model runs in this process.

    \b
    Example:
      packager demo
    """
    from packager.console import Console
    from packager.demo import run_demo
    from packager.errors import VERIFICATION_FAILED
    from packager.pipeline import failed

    with Console(quiet=quiet, as_json=as_json) as console:
        result = run_demo(output, name=name, replace=replace, emit=console.emit)
        console.demo(result)
    return VERIFICATION_FAILED if failed(result.build.verdict) else 0
