"""`packager fetch`: a model of a hub in, a checked folder out."""

from __future__ import annotations

from pathlib import Path

import click

from packager.commands import options


@click.command(short_help="Download a model from Hugging Face or ModelScope, checked.")
@click.argument("name", metavar="NAME")
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder for the files; by default the hub's own cache, which its other tools use too.",
)
@click.option("--revision", metavar="R", help="A branch, tag or commit; the same as NAME@R.")
@click.option("--offline", is_flag=True, help="Ask nobody: take what the cache or -o DIR holds.")
@options.as_json
@options.quiet
def fetch(name: str, output: Path | None, revision: str | None, offline: bool, as_json: bool, quiet: bool) -> None:
    """Download what a build reads of a model, and compare every byte with the hub's own digests.

    NAME is hf:ORG/NAME (Hugging Face) or ms:ORG/NAME (ModelScope), with @REVISION behind it where it is to be a certain one.
    Interrupted, the same command continues. What it prints is the folder, to be passed as BASE or ADAPTER.

    \b
    Examples:
      packager fetch hf:Qwen/Qwen2.5-0.5B-Instruct
      packager fetch ms:Qwen/Qwen2.5-0.5B-Instruct -o ./base
      packager plan $(packager fetch -q hf:Qwen/Qwen2.5-0.5B-Instruct) ./my-lora -o ./out
    """
    from packager.console import Console
    from packager.report_page.figures import size
    from packager.sources.hub import fetch as run

    with Console(quiet=quiet, as_json=as_json) as console:
        done = run(name, emit=console.emit, output=output, revision=revision, offline=offline)
        console.result(done)
        console.note(f"{done.title}, {len(done.files)} files, {size(done.size_bytes)}")
        console.line(str(done.folder))
