"""`packager doctor`: what is wrong with a model that is already in Ollama, or with a GGUF file."""

from __future__ import annotations

from pathlib import Path

import click

from packager.commands import options, source_options
from packager.formats.reference_name import ReferenceName


@click.command(short_help="What is wrong with a model that is there already, and what mends it.")
@click.argument("model", metavar="MODEL")
@click.option(
    "--reference",
    metavar="BASE[+ADAPTER]",
    required=True,
    help="What the model should be: the base's folder, and behind a plus the adapter's.",
)
@options.template
@source_options.reference
@click.option(
    "--conversations",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Your own conversations (.jsonl), whose length the context is compared with.",
)
@click.option(
    "-o", "--output", metavar="DIR", type=click.Path(path_type=Path), help="Write the fixed Modelfile into this folder."
)
@options.as_json
@options.quiet
def doctor(
    model: str,
    reference: ReferenceName,
    template_file: str | None,
    conversations: Path | None,
    output: Path | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Examine MODEL, a name in Ollama or a GGUF file from anywhere: which part is at fault, what that costs, and what mends it.

    Looked at are the file's bytes, weights, architecture, vocabulary and tokenizer, the chat template, default system prompt,
    BOS, stops, context, sampling and quantization. Nothing in Ollama is changed. Exit code 5 when something is at fault.

    \b
    Examples:
      packager doctor my-model --reference ./Qwen2.5-0.5B-Instruct+./my-lora
      packager doctor my-model --reference ./base -o ./mended && ollama create my-model -f ./mended/Modelfile
    """
    from packager.console import Console
    from packager.doctor.diagnosis import Request, diagnose
    from packager.errors import VERIFICATION_FAILED
    from packager.template_proofs import more_conversations

    with Console(quiet=quiet, as_json=as_json) as console:
        request = Request(
            model=model,
            base=reference.base,
            adapter=reference.adapter,
            template_file=template_file,
            conversations=more_conversations(conversations, 0, 0, emit=console.emit),
            output=output,
        )
        found = diagnose(request, emit=console.emit)
        console.diagnosis(found)
    return VERIFICATION_FAILED if found.findings else 0
