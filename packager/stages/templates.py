"""The chat template of a build: which one, in its canonical form, with its stops, and what other engines make of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from packager.artifacts import Adapter, ChatTemplate, Checkpoint, Message, TemplateForm
from packager.chat import serving
from packager.chat.canonical import Canonical, canonicalise
from packager.chat.choose import choose_original
from packager.chat.go_template import go_form
from packager.chat.lmdeploy import lmdeploy_form
from packager.chat.ollama_choice import predict_choice
from packager.chat.probes import every_probe, load_probes
from packager.chat.render import Renderer, RenderRefused
from packager.chat.rewrite import rewritten_form
from packager.chat.solve import solve_turns
from packager.chat.stops import find_stops
from packager.engines.ollama_server import NATIVE_TEMPLATES
from packager.formats.checkpoint import folder_name
from packager.formats.fine_tuned import tokenizer_folder
from packager.formats.text_file import write_text
from packager.formats.tokenizer import TokenizerFacts, read_tokenizer

_PREPARE = (
    "# vLLM and LMDeploy read the merged checkpoint. Where --keep-hf did not write hf, make it beside this file first:"
)


class Target(StrEnum):
    """What the forms of a template are for, by the name they are asked for with."""

    OLLAMA = "ollama"
    LMDEPLOY = "lmdeploy"
    VLLM = "vllm"


@dataclass(frozen=True, kw_only=True)
class TemplatesJob:
    """A base, its adapter or None, and what the user typed behind `--template` or None."""

    base: Checkpoint
    adapter: Adapter | None
    template_file: str | None


@dataclass(frozen=True, kw_only=True)
class TemplateResult:
    """The template and its forms.

    Attributes:
        template: The canonical template.
        lmdeploy: LMDeploy's JSON form, or why there is none.
        go: The Go TEMPLATE for an Ollama before 0.30, or why there is none.
        rewritten: The form for a llama.cpp that does not build the prompts from the template itself, or why there is none.
        prepare_command: Makes the `hf` checkpoint that the two commands below serve.
        vllm_command: Serves it with vLLM.
        lmdeploy_command: Serves it with LMDeploy.
        notes: What was found and does not stop a build, one line each.
    """

    template: ChatTemplate
    lmdeploy: TemplateForm
    go: TemplateForm
    rewritten: TemplateForm
    prepare_command: str
    vllm_command: str
    lmdeploy_command: str
    notes: tuple[str, ...] = ()


def make_template(job: TemplatesJob) -> TemplateResult:
    """Give the canonical template of a base and adapter, proved on every probe conversation; writes nothing.

    Raises:
        InputInvalid: The adapter's and the base's template disagree, a file cannot be read, or it is not Jinja.
        UnsafeInput: The template does not end, needs too much memory, or leaves the sandbox.
        Unsupported: There is no template.
    """
    tokens = read_tokenizer(tokenizer_folder(job.base, job.adapter))
    probes = load_probes()
    original = choose_original(job.base, job.adapter, job.template_file, tokens, probes)
    with Renderer(original.source, tokens) as renderer:
        canonical = canonicalise(
            renderer, original.text, every_probe(), source=original.source, bos_token=tokens.bos_token
        )
        stops = find_stops(renderer, canonical.text, tokens, job.base.eos_token_ids, named=original.stops)

        def reference(messages: tuple[Message, ...]) -> str | RenderRefused:
            return renderer.render(canonical.text, messages)

        lmdeploy = lmdeploy_form(
            reference, probes, stops=stops.texts, double_bos=tokens.adds_bos and not canonical.leading_bos
        )
        turns = solve_turns(reference, probes, bos=tokens.bos_token or "")
        rewritten = rewritten_form(renderer, canonical, turns, probes, source=original.source)
    template = ChatTemplate(
        source=original.source,
        original_sha256=canonical.original_sha256,
        text=canonical.text,
        pins=canonical.pins,
        stops=stops.texts,
        adds_bos=canonical.leading_bos,
        rewritten=rewritten.text,
    )
    return TemplateResult(
        template=template,
        lmdeploy=lmdeploy,
        go=go_form(turns),
        rewritten=rewritten,
        prepare_command=serving.prepare_command(job.base.name, _names(job.adapter)),
        vllm_command=serving.vllm_command(job.base.architecture),
        lmdeploy_command=serving.lmdeploy_command(has_json=lmdeploy.text is not None),
        notes=(
            *original.notes,
            *_notes(canonical, stops.notes, stops.texts, tokens),
            *_foretold(job.base.architecture, canonical.text),
        ),
    )


def write_templates(
    result: TemplateResult, output: Path, targets: tuple[Target, ...] = tuple(Target)
) -> tuple[Path, ...]:
    """Write the forms that there are, and `serve.txt` with the commands of other engines and why a form is missing.

    Args:
        result: What `make_template` gave.
        output: An existing folder.
        targets: What for. Ollama and vLLM read `chat_template.jinja`; LMDeploy reads the checkpoint's, or its JSON.

    Returns:
        The files written.
    """
    texts = {serving.COMMANDS_FILE: _commands(result, targets)}
    if Target.OLLAMA in targets or Target.VLLM in targets:
        texts[serving.TEMPLATE_FILE] = result.template.text
    if Target.LMDEPLOY in targets and result.lmdeploy.text is not None:
        texts[serving.LMDEPLOY_FILE] = result.lmdeploy.text
    if Target.OLLAMA in targets and result.go.text is not None:
        texts[serving.GO_FILE] = result.go.text + "\n"
    return tuple(write_text(output / name, text) for name, text in sorted(texts.items()) if text)


def write_rewritten(text: str, output: Path) -> tuple[Path, ...]:
    """Write the template that the GGUF files have where it is not `chat_template.jinja`."""
    return (write_text(output / serving.GGUF_TEMPLATE_FILE, text),)


def _commands(result: TemplateResult, targets: tuple[Target, ...]) -> str:
    """Give serve.txt; empty when there is nothing to say."""
    commands = []
    if Target.VLLM in targets:
        commands += ["", "# vLLM, port 8000:", result.vllm_command]
    if Target.LMDEPLOY in targets:
        commands += ["", "# LMDeploy, port 23333:", result.lmdeploy_command]
        if result.lmdeploy.text is None:
            commands += [
                "",
                f"# There is no {serving.LMDEPLOY_FILE} ({result.lmdeploy.code}): {result.lmdeploy.reason}",
            ]
    lines = [_PREPARE, result.prepare_command, *commands] if commands else []
    if Target.OLLAMA in targets:
        if result.go.text is None:
            lines += [
                "",
                f"# There is no {serving.GO_FILE} for Ollama before 0.30 ({result.go.code}): {result.go.reason}",
            ]
        lines += [f"# {serving.GO_FILE} does not hold for {limit}." for limit in result.go.limits]
    return "\n".join([*lines, ""]).removeprefix("\n")


def _notes(
    canonical: Canonical, stop_notes: tuple[str, ...], stops: tuple[str, ...], tokens: TokenizerFacts
) -> tuple[str, ...]:
    notes = [f"{pin.name} is fixed to {pin.value}: {pin.reason}" for pin in canonical.pins]
    notes += [f"the template refuses conversation {probe} ({message})" for probe, message in canonical.refuses]
    notes += stop_notes
    if not stops:
        notes.append("nothing names a token that ends an answer: the model may not stop")
    if tokens.adds_bos and not canonical.leading_bos:
        notes.append("the tokenizer adds a BOS, the chat template does not: prompts have none, as in training")
    return tuple(notes)


def _foretold(architecture: str, template: str) -> tuple[str, ...]:
    """Say what an Ollama that runs chat templates would use instead of this one, where that can be told without a server."""
    choice = predict_choice(".".join(map(str, NATIVE_TEMPLATES)), architecture=architecture, jinja=template)
    return (f"{choice.reason} ({choice.code})",) if choice.code else ()


def _names(adapter: Adapter | None) -> tuple[str, ...]:
    return tuple(folder_name(folder) for folder in adapter.folders) if adapter is not None else ()
