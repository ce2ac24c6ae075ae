"""`packager template`: the canonical chat template and its forms for other engines."""

from __future__ import annotations

from pathlib import Path

import click

from packager.commands import options


@click.command(short_help="Write the chat template for every engine.")
@options.base
@options.adapter
@options.output
@options.template
@options.as_json
@options.quiet
def template(
    base: Path, adapter: Path | None, output: Path, template_file: Path | None, as_json: bool, quiet: bool
) -> None:
    """Write the chat template of BASE and ADAPTER for Ollama, llama.cpp, vLLM and LMDeploy.

    \b
    Example:
      packager template ./Qwen2.5-0.5B-Instruct ./my-lora -o ./out
    """
    from packager.console import Console
    from packager.single_stages import template as run

    with Console(quiet=quiet, as_json=as_json) as console:
        console.files(run(base, adapter, output, template_file=template_file, emit=console.emit))
