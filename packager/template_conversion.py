"""`packager template convert`: writes a template's forms, then asks the real engines what they build from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from packager.artifacts import Conversation
from packager.chat import serving
from packager.errors import ToolMissing
from packager.events import Emit
from packager.formats.adapter import read_adapter
from packager.formats.checkpoint import read_checkpoint
from packager.parity.template_matrix import TemplateMatrix, TemplateRow
from packager.pipeline import write_rewritten_once, write_templates_once
from packager.stages.template_check import Column
from packager.stages.templates import Target, TemplateResult, TemplatesJob, make_template
from packager.template_proofs import prove
from packager.workspace import Workspace

# The engines that read what is written for a target.
_COLUMNS = {
    Target.OLLAMA: (Column.OLLAMA, Column.OLLAMA_GO),
    Target.LMDEPLOY: (Column.LMDEPLOY,),
    Target.VLLM: (Column.VLLM,),
}


@dataclass(frozen=True, kw_only=True)
class MissingForm:
    """A file that a template cannot be written as.

    Attributes:
        file: Its name.
        code: A reason code of docs/templates.md.
        reason: Why not.
        instead: What to do without it.
    """

    file: str
    code: str
    reason: str
    instead: str


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What was written, what the engines make of it, and what could not be written."""

    files: tuple[Path, ...]
    matrix: TemplateMatrix
    missing: tuple[MissingForm, ...]


def convert(
    base: Path,
    adapter: Path | None,
    output: Path,
    *,
    template_file: str | None,
    targets: tuple[Target, ...],
    more: tuple[Conversation, ...] = (),
    emit: Emit,
) -> Conversion:
    """Write the forms of a template and compare what each engine builds from them with training.

    Args:
        base: The checkpoint that was trained.
        adapter: Its adapter.
        output: Where the files go.
        template_file: The template it was trained with.
        targets: What to write for; only the engines of these are asked.
        more: Conversations besides the probes.
        emit: Gets the progress.

    Raises:
        UnsafeInput: The template does not end on one of the conversations; on a probe, before anything is written.
    """
    checkpoint = read_checkpoint(base)
    lora = read_adapter(adapter, checkpoint) if adapter is not None else None
    found = make_template(TemplatesJob(base=checkpoint, adapter=lora, template_file=template_file))
    with Workspace(output, emit=emit) as workspace:
        files = write_templates_once(found, workspace, emit, targets)
        columns = tuple(column for target in targets for column in _COLUMNS[target])
        try:
            matrix = prove(base, found, columns=columns, more=more, emit=emit)
        except ToolMissing as error:  # the files are right or wrong without it; that nobody looked is said in every row
            matrix = _not_checked(found, columns, f"{error.message} ({error.hint})")
        if matrix.rewritten and found.rewritten.text is not None:
            files += write_rewritten_once(found.rewritten.text, workspace)
    return Conversion(files=files, matrix=matrix, missing=tuple(_missing(found, targets, output)))


def _not_checked(found: TemplateResult, columns: tuple[Column, ...], reason: str) -> TemplateMatrix:
    return TemplateMatrix(
        source=found.template.source,
        original_sha256=found.template.original_sha256,
        reference="none",
        conversations=(),
        rows=tuple(TemplateRow(engine=column.value, version="", not_checked=reason) for column in columns),
    )


def _missing(found: TemplateResult, targets: tuple[Target, ...], output: Path) -> list[MissingForm]:
    missing = []
    if Target.OLLAMA in targets and found.go.text is None:
        way_out = f"Ollama 0.30 and later needs none: there the GGUF's own template, {serving.TEMPLATE_FILE}, is run."
        missing.append(MissingForm(file=serving.GO_FILE, code=found.go.code, reason=found.go.reason, instead=way_out))
    if Target.LMDEPLOY in targets and found.lmdeploy.json_text is None:
        way_out = f"Serve the template itself, as {output / serving.COMMANDS_FILE} says: {found.lmdeploy_command}"
        form = found.lmdeploy
        missing.append(MissingForm(file=serving.LMDEPLOY_FILE, code=form.code, reason=form.reason, instead=way_out))
    return missing
