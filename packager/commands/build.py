"""`packager build`: base and adapter in, a verified Ollama model out."""

from __future__ import annotations

from pathlib import Path

import click

from packager.artifacts import Quant
from packager.commands import options, source_options


@click.command(short_help="Base and adapter in, a verified Ollama model out.")
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
@options.gates
@options.data
@options.reference_memory
@options.as_json
@options.quiet
def build(
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
    gates: tuple[tuple[str, float], ...],
    data: Path | None,
    data_rows: int,
    reference_memory_bytes: int | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Merge BASE with ADAPTER, write every GGUF, register them in Ollama, and verify them.

    \b
    Example:
      packager build ./Qwen2.5-0.5B-Instruct ./my-lora -o ./out --name my-model
      ollama run my-model
    """
    from packager.console import Console
    from packager.errors import VERIFICATION_FAILED
    from packager.parity.gates import gates_from
    from packager.pipeline import build as run
    from packager.pipeline import failed
    from packager.plan import BuildRequest

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
        data=data,
        data_rows=data_rows,
        reference_memory_bytes=reference_memory_bytes,
    )
    with Console(quiet=quiet, as_json=as_json) as console:
        result = run(request, gates=gates_from(gates), emit=console.emit)
        console.build(result)
    return VERIFICATION_FAILED if failed(result.verdict) else 0
