"""`packager eval`: score a packaged model, and the reference beside it, on the user's own rows."""

from __future__ import annotations

from pathlib import Path

import click

from packager.artifacts import Quant
from packager.commands import options, source_options
from packager.errors import Usage
from packager.formats.reference_name import ReferenceName

METRICS = ("llamafactory", "sacrebleu")
WORDS = ("13a", "zh", "char")


@click.command(short_help="Score a packaged model and its reference on your own rows.")
@click.argument("model", metavar="MODEL")
@click.argument("data", metavar="DATA", type=click.Path(path_type=Path))
@options.output
@click.option("--quant", metavar="QUANT", type=options.QUANT, help="Which quant of MODEL.")
@click.option("--reference", metavar="BASE[+ADAPTER]", help="Score this too, and compare; without it MODEL alone.")
@click.option("--adapter", metavar="DIR", type=options.Place(), help="The adapter, apart from BASE.")
@options.template
@source_options.reference
@options.reference_memory
@click.option("--metrics", type=click.Choice(METRICS), default=METRICS[0], show_default=True, help="Which metrics.")
@click.option("--tokenize", type=click.Choice(WORDS), help="How sacrebleu splits texts into words; 13a by default.")
@click.option("--limit", metavar="N", type=click.IntRange(1), help="Only the first N rows.")
@click.option(
    "--max-tokens", metavar="N", type=click.IntRange(1), default=512, show_default=True, help="The longest answer."
)
@click.option(
    "--resamples", metavar="N", type=click.IntRange(1), default=1000, show_default=True, help="Bootstrap size."
)
@click.option("--seed", metavar="S", type=click.IntRange(0), default=0, show_default=True, help="Bootstrap seed.")
@click.option("--restart", is_flag=True, help="Throw away the results that are in DIR, and begin anew.")
@options.as_json
@options.quiet
def eval(  # noqa: A001  # the command's name
    model: str,
    data: Path,
    output: Path,
    quant: str | None,
    reference: ReferenceName | None,
    adapter: Path | None,
    template_file: str | None,
    reference_memory_bytes: int | None,
    metrics: str,
    tokenize: str | None,
    limit: int | None,
    max_tokens: int,
    resamples: int,
    seed: int,
    restart: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Answer every row of DATA with MODEL, and with its reference, and score the answers against the rows' own.

    MODEL is a name in Ollama, a build folder or a GGUF file. DATA is a .jsonl file of OpenAI messages, ShareGPT or Alpaca; the
    last answer of each row is what is expected. The same command continues where it was interrupted.

    \b
    Examples:
      packager eval my-model test.jsonl -o results
      packager eval ./out test.jsonl --quant q4_k_m --reference ./Qwen2.5-0.5B-Instruct+./my-lora -o results
    """
    from packager.console import Console
    from packager.evaluation.request import EvalRequest, MetricName
    from packager.evaluation.run import evaluate
    from packager.metrics.sacrebleu import Words

    if reference is None and (adapter is not None or template_file is not None):
        option = f"--adapter {adapter}" if adapter is not None else f"--template {template_file}"
        raise Usage(f"{option} goes with a reference", hint="Add --reference BASE.")
    if tokenize is not None and metrics != "sacrebleu":
        raise Usage(f"--tokenize {tokenize} means nothing to {metrics}", hint="Add --metrics sacrebleu.")
    request = EvalRequest(
        model=model,
        quant=Quant(quant) if quant is not None else None,
        data=data,
        output=output,
        reference=reference,
        template_file=template_file,
        reference_memory_bytes=reference_memory_bytes,
        metric=MetricName(metrics),
        words=Words(tokenize or WORDS[0]),
        limit=limit,
        max_tokens=max_tokens,
        resamples=resamples,
        seed=seed,
        restart=restart,
    )
    with Console(quiet=quiet, as_json=as_json) as console:
        console.evaluation(evaluate(request, emit=console.emit), output)
