"""`packager template`: show a chat template, prove it on every engine, convert it, and compare two."""

from __future__ import annotations

from pathlib import Path

import click

from packager.commands import options, source_options

ENGINES = ("llama.cpp", "ollama", "ollama-go", "vllm", "lmdeploy")
TARGETS = ("ollama", "lmdeploy", "vllm")


@click.group(short_help="Show, prove, convert and compare chat templates.")
def template() -> None:
    """Show a chat template, prove it on every engine, write its forms, and compare two.

    MODEL is a checkpoint's folder, a GGUF file, a template file, a name of `packager template list`, or the name of a model in
    Ollama. A file or folder comes first, then the list; a model whose name is in the list is NAME:latest.

    \b
    Examples:
      packager template show ./Qwen2.5-0.5B-Instruct
      packager template check ./Qwen2.5-0.5B-Instruct ./my-lora
    """


@template.command("list", short_help="The named templates, with the names that trainers have for them.")
@options.as_json
def list_templates(as_json: bool) -> None:
    """List the named templates: what `--template NAME` takes, and where each is defined.

    `llamafactory:NAME` and `xtuner:NAME` are the trainers' own names; without the trainer a name means the list's own, or else
    the only trainer's that has it.

    \b
    Example:
      packager template list
    """
    from packager.console import Console
    from packager.named_templates import named_templates

    with Console(as_json=as_json) as console:
        console.named_templates(named_templates())


@template.command(short_help="What a template is: source, pins, stops, text.")
@options.model
@options.adapter
@options.template
@source_options.subject
@click.option(
    "--text",
    "text",
    type=click.Choice(("original", "canonical")),
    help="Print the template itself, as it stands there or as a build would ship it.",
)
@options.as_json
def show(model: str, adapter: Path | None, template_file: str | None, text: str | None, as_json: bool) -> None:
    """Show the chat template of MODEL: where it was found, what is fixed in it, and which tokens end an answer.

    \b
    Examples:
      packager template show ./Qwen2.5-0.5B-Instruct ./my-lora
      packager template show my-model --text original
      packager template show llamafactory:qwen
    """
    from packager.console import Console
    from packager.template_proofs import show as run

    with Console(as_json=as_json) as console:
        found = run(model, adapter, template_file=template_file, emit=console.emit)
        if text is not None and not as_json:
            console.verbatim(found.text if text == "original" else found.canonical)
        else:
            console.shown_template(found)


@template.command(short_help="Prove a template on every engine, conversation by conversation.")
@options.model
@options.adapter
@options.template
@source_options.subject
@click.option(
    "--reference",
    metavar="BASE",
    type=options.Place(),
    help="The checkpoint that a GGUF file, a template file or a model in Ollama is compared with.",
)
@click.option(
    "--engine",
    "engines",
    type=click.Choice(ENGINES),
    multiple=True,
    help="Ask this engine only; repeatable. By default every one.",
)
@options.conversations
@click.option(
    "-o", "--output", metavar="FILE", type=click.Path(path_type=Path), help="Also write the matrix to FILE as JSON."
)
@options.as_json
@options.quiet
def check(
    model: str,
    adapter: Path | None,
    template_file: str | None,
    reference: Path | None,
    engines: tuple[str, ...],
    conversations: Path | None,
    walks: int,
    seed: int,
    output: Path | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Compare the prompts and token ids that engines build with those of transformers, on every probe conversation.

    For a checkpoint the canonical template is proved: what a build would ship. A GGUF file, a template file or a model in
    Ollama is taken as it is, and compared with the checkpoint that --reference names. No weights are loaded. Exit code 5
    when a CORE conversation differs.

    \b
    Examples:
      packager template check ./Qwen2.5-0.5B-Instruct ./my-lora
      packager template check my-model ./my-lora --reference ./Qwen2.5-0.5B-Instruct
    """
    from packager.console import Console
    from packager.errors import VERIFICATION_FAILED
    from packager.stages.template_check import Column
    from packager.template_proofs import check as run
    from packager.template_proofs import more_conversations, write_matrix

    with Console(quiet=quiet, as_json=as_json) as console:
        matrix = run(
            model,
            adapter,
            template_file=template_file,
            reference=reference,
            columns=tuple(Column(name) for name in engines or ENGINES),
            more=more_conversations(conversations, walks, seed, emit=console.emit),
            emit=console.emit,
        )
        if output is not None:
            write_matrix(matrix, output)
        console.template_matrix(matrix)
    return 0 if matrix.equal else VERIFICATION_FAILED


@template.command(short_help="Write a template's forms, and prove each on its engine.")
@options.base
@options.adapter
@options.output
@click.option(
    "--to",
    "targets",
    type=click.Choice(TARGETS),
    multiple=True,
    help="Write for this engine only; repeatable. By default for every one.",
)
@options.template
@source_options.sources
@options.conversations
@options.as_json
@options.quiet
def convert(
    base: Path,
    adapter: Path | None,
    output: Path,
    targets: tuple[str, ...],
    template_file: str | None,
    conversations: Path | None,
    walks: int,
    seed: int,
    as_json: bool,
    quiet: bool,
) -> int:
    """Write the chat template of the checkpoint BASE and ADAPTER for an engine, and compare what the engine builds from it.

    \b
    ollama    chat_template.jinja for the GGUF; ollama.gotmpl, the TEMPLATE of Modelfile.legacy, before 0.30
    lmdeploy  lmdeploy.json where it can say the template; else serve.txt, with the reason and --chat-template hf
    vllm      chat_template.jinja, and serve.txt with the command

    An engine that is not there is told as not checked. Exit code 5 when a CORE conversation differs, 12 when a form that
    --to asks for does not exist; what can be written is there in both cases.

    \b
    Example:
      packager template convert ./Qwen2.5-0.5B-Instruct ./my-lora -o ./out --to lmdeploy
    """
    from packager.console import Console
    from packager.errors import VERIFICATION_FAILED, Unsupported
    from packager.stages.templates import Target
    from packager.template_conversion import convert as run
    from packager.template_proofs import more_conversations

    with Console(quiet=quiet, as_json=as_json) as console:
        done = run(
            base,
            adapter,
            output,
            template_file=template_file,
            targets=tuple(Target(name) for name in TARGETS if name in (targets or TARGETS)),
            more=more_conversations(conversations, walks, seed, emit=console.emit),
            emit=console.emit,
        )
        console.conversion(done)
    if targets and done.missing:
        raise Unsupported(
            "; ".join(f"{base}: there is no {form.file} ({form.code}): {form.reason}" for form in done.missing),
            hint=" ".join(form.instead for form in done.missing),
        )
    return VERIFICATION_FAILED if done.matrix.differing else 0


@template.command(short_help="Where the prompts of two templates part.")
@click.argument("one", metavar="A")
@click.argument("other", metavar="B")
@click.option(
    "--reference",
    metavar="BASE",
    type=click.Path(path_type=Path),
    help="The checkpoint whose tokenizer is used; by default the one among A and B.",
)
@options.conversations
@options.as_json
def diff(
    one: str, other: str, reference: Path | None, conversations: Path | None, walks: int, seed: int, as_json: bool
) -> int:
    """Render every probe conversation with the templates of A and B and show where the prompts part, in text and token ids.

    A and B are checkpoints, GGUF files, template files, named templates or names of models in Ollama. Exit code 5 when a prompt
    differs.

    \b
    Examples:
      packager template diff ./Qwen2.5-0.5B-Instruct ./trained.jinja
      packager template diff llamafactory:qwen ./Qwen2.5-0.5B-Instruct
    """
    from packager.console import Console
    from packager.errors import VERIFICATION_FAILED
    from packager.template_proofs import diff as run
    from packager.template_proofs import more_conversations

    with Console(as_json=as_json) as console:
        more = more_conversations(conversations, walks, seed, emit=console.emit)
        found = run(one, other, reference=reference, more=more, emit=console.emit)
        console.template_difference(found)
    return VERIFICATION_FAILED if found.different else 0
