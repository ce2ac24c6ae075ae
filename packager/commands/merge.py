"""`packager merge`: base and adapter in, one Hugging Face checkpoint out."""

from __future__ import annotations

from pathlib import Path

import click

from packager.artifacts import Dtype
from packager.commands import options


@click.command(short_help="Write the merged Hugging Face checkpoint.")
@options.base
@click.argument("adapter", type=click.Path(path_type=Path))
@options.more_adapters
@options.dequantize_base
@options.output
@click.option(
    "--dtype", type=click.Choice([dtype.value for dtype in Dtype]), help="Element type; by default the base's."
)
@options.template
@options.as_json
@options.quiet
def merge(
    base: Path,
    adapter: Path,
    more_adapters: tuple[Path, ...],
    dequantize_base: bool,
    output: Path,
    dtype: str | None,
    template_file: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Merge ADAPTER into BASE, in float32, and write a Hugging Face checkpoint.

    \b
    Example:
      packager merge ./Qwen2.5-0.5B-Instruct ./my-lora -o ./merged --dtype bfloat16
    """
    from packager.console import Console
    from packager.plan import readable_base
    from packager.single_stages import merge as run

    with Console(quiet=quiet, as_json=as_json) as console:
        result = run(
            readable_base(base, dequantize=dequantize_base, emit=console.emit),
            (adapter, *more_adapters),
            output,
            dtype=Dtype(dtype) if dtype else None,
            template_file=template_file,
            emit=console.emit,
        )
        console.files(result)
