"""`packager verify`: compare the GGUF files of a build folder with the reference."""

from __future__ import annotations

from pathlib import Path

import click

from packager.commands import options


@click.command(short_help="Compare a build folder with the reference.")
@click.argument("folder", type=click.Path(path_type=Path))
@options.base
@options.adapter
@options.more_adapters
@options.dequantize_base
@click.option("--name", metavar="NAME", help="Also compare what Ollama serves under NAME:QUANT.")
@options.template
@options.gates
@options.data
@options.reference_memory
@options.as_json
@options.quiet
def verify(
    folder: Path,
    base: Path,
    adapter: Path | None,
    more_adapters: tuple[Path, ...],
    dequantize_base: bool,
    name: str | None,
    template_file: str | None,
    gates: tuple[tuple[str, float], ...],
    data: Path | None,
    data_rows: int,
    reference_memory_bytes: int | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Compare every GGUF in FOLDER with BASE + ADAPTER, unmerged, under transformers and peft.

    Exit code 5 when a gate fails; report.json in FOLDER has every figure, report.html shows them.

    \b
    Example:
      packager verify ./out ./Qwen2.5-0.5B-Instruct ./my-lora --name my-model
    """
    from packager.console import Console
    from packager.errors import VERIFICATION_FAILED
    from packager.formats.labelled_rows import read_labelled_rows
    from packager.parity.gates import gates_from
    from packager.pipeline import failed
    from packager.plan import readable_base
    from packager.single_stages import verify as run

    with Console(quiet=quiet, as_json=as_json) as console:
        verdict = run(
            folder,
            readable_base(base, dequantize=dequantize_base, emit=console.emit),
            (*(() if adapter is None else (adapter,)), *more_adapters),
            name=name,
            template_file=template_file,
            gates=gates_from(gates),
            data=read_labelled_rows(data, limit=data_rows) if data is not None else (),
            reference_memory_bytes=reference_memory_bytes,
            emit=console.emit,
        )
        console.verdict(verdict)
    return VERIFICATION_FAILED if failed(verdict) else 0
