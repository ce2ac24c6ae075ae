"""The Modelfile of a build: what Ollama needs besides the GGUF, from what the base and the template say."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from packager import catalog
from packager.artifacts import ChatTemplate, Checkpoint, Modelfile, OllamaParameters, TemplateForm
from packager.errors import InputInvalid
from packager.formats.modelfile import parse_modelfile, render_modelfile
from packager.formats.text_file import write_text

FILE_NAME = "Modelfile"
LEGACY_NAME = "Modelfile.legacy"
LEGACY_SKELETON = "legacy"
# More than Ollama's own default of 4096, and still affordable: the cache of a 7B model at 8192 tokens takes about 1 GB.
CONTEXT_LIMIT_TOKENS = 8192
LICENSE_LIMIT_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ModelfileJob:
    """A base, the template of the build with its Go form, and the file name of the GGUF that lies beside the Modelfile."""

    base: Checkpoint
    template: ChatTemplate
    go: TemplateForm
    gguf_name: str


@dataclass(frozen=True, kw_only=True)
class ModelfileResult:
    """The values for Ollama's API, the text for people, and what should be known about them, one line each.

    `legacy_text` is the text for an Ollama before 0.30, None where the template has no Go form.
    """

    modelfile: Modelfile
    text: str
    legacy_text: str | None
    notes: tuple[str, ...]


def make_modelfile(job: ModelfileJob) -> ModelfileResult:
    """Give the Modelfile of a build; writes nothing.

    Raises:
        InputInvalid: The licence file cannot be read, or a value has no form in a Modelfile.
    """
    base, sampling = job.base, job.base.sampling
    declared = base.context_tokens
    modelfile = Modelfile(
        gguf=job.gguf_name,
        parameters=OllamaParameters(
            stop=job.template.stops,
            num_ctx=None if declared is None else min(declared, CONTEXT_LIMIT_TOKENS),
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            repeat_penalty=sampling.repetition_penalty,
        ),
        license_text=_license_text(base),
    )
    text = render_modelfile(modelfile, catalog.modelfile_skeleton(base.architecture).text)
    legacy = None
    if job.go.text is not None:
        legacy = render_modelfile(
            replace(modelfile, template=job.go.text), catalog.named_skeleton(LEGACY_SKELETON).text
        )
    return ModelfileResult(modelfile=modelfile, text=text, legacy_text=legacy, notes=_notes(base, modelfile, text))


def write_modelfile(result: ModelfileResult, output: Path) -> tuple[Path, ...]:
    """Write `Modelfile`, and `Modelfile.legacy` where there is one, into an existing folder and give their paths."""
    written = [write_text(output / FILE_NAME, result.text)]
    if result.legacy_text is not None:
        written.append(write_text(output / LEGACY_NAME, result.legacy_text))
    return tuple(written)


def _license_text(base: Checkpoint) -> str | None:
    if base.license_file is None:
        return base.license_id
    try:
        if base.license_file.stat().st_size > LICENSE_LIMIT_BYTES:
            raise InputInvalid(f"{base.license_file}: longer than {LICENSE_LIMIT_BYTES} bytes")
        return base.license_file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputInvalid(f"{base.license_file}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputInvalid(
            f"{base.license_file}: not UTF-8 (byte {error.start})", hint="Save the licence as UTF-8."
        ) from error


def _notes(base: Checkpoint, modelfile: Modelfile, text: str) -> tuple[str, ...]:
    notes = []
    context = modelfile.parameters.num_ctx
    if context is None:
        notes.append("config.json declares no context length: Ollama's own default holds")
    elif base.context_tokens != context:
        notes.append(
            f"num_ctx is {context} of the model's {base.context_tokens} tokens; a larger one takes more memory"
        )
    if modelfile.license_text is None:
        notes.append("the base names no licence")
    if parse_modelfile(text) != modelfile:
        notes.append("the Modelfile's text cannot carry every value and says which; registering through packager does")
    return tuple(notes)
