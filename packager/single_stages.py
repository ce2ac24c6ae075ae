"""One stage at a time, for `packager merge`, `quantize`, `modelfile`, `register`, `verify` and `report`.

The same jobs and receipts as `packager.pipeline`, which does them all.
"""

from __future__ import annotations

import webbrowser
from dataclasses import dataclass
from pathlib import Path

from packager.artifacts import Adapter, Checkpoint, Dtype, Gguf, Modelfile, Quant, Registered, Verdict
from packager.durable import FileDigest
from packager.engines.ollama import OllamaServer
from packager.errors import InputInvalid, ToolMissing
from packager.events import Emit, Noted
from packager.formats.adapter import read_adapters
from packager.formats.build_folder import MODELFILE_NAME, find_ggufs, read_modelfile
from packager.formats.checkpoint import read_checkpoint
from packager.formats.labelled_rows import LabelledRow
from packager.formats.model_files import model_files
from packager.formats.model_name import ModelName
from packager.gguf_gate import require_prompts_in_ollama
from packager.parity.gates import Gates
from packager.parity.report import REPORT_NAME, read_report
from packager.pipeline import (
    Written,
    point_name,
    verify_once,
    write_page_once,
    write_weights,
)
from packager.plan import BuildRequest, build_name, make_plan
from packager.report_page.page import render_page, write_page
from packager.sources.llama_cpp_tree import cached_tree, find_tree
from packager.stages.modelfile import ModelfileJob, make_modelfile, write_modelfile
from packager.stages.register import RegisterJob, read_back
from packager.stages.register import register as register_one
from packager.stages.templates import TemplateResult, TemplatesJob, make_template
from packager.stages.verify import VerifyJob
from packager.stages.weights import MergeJob
from packager.stages.weights import merge as merge_weights
from packager.tool_versions import tool_versions
from packager.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class MergeKey:
    """Everything the bytes of a merged checkpoint depend on."""

    inputs: tuple[FileDigest, ...]
    dtype: Dtype
    template: str
    versions: tuple[str, ...]


def merge(
    base: Path, adapters: tuple[Path, ...], output: Path, *, dtype: Dtype | None, template_file: str | None, emit: Emit
) -> tuple[Path, ...]:
    """Write a merged Hugging Face checkpoint and give its files."""
    checkpoint, lora, found = _read(base, adapters, template_file)
    chosen = dtype or checkpoint.dtype
    with Workspace(output, emit=emit) as workspace:
        key = MergeKey(
            inputs=workspace.digest_inputs(model_files(checkpoint, lora)),
            dtype=chosen,
            template=found.template.text,
            versions=tool_versions(),
        )

        def job(staging: Path) -> Written:
            text = found.template.text
            job = MergeJob(base=checkpoint, adapter=lora, dtype=chosen, output=staging, chat_template=text)
            return Written(files=merge_weights(job, emit=emit))

        return workspace.once("merge", key=key, job=job, kind=Written, title=f"merge in {chosen.value}").files


def quantize(request: BuildRequest, *, emit: Emit) -> tuple[Gguf, ...]:
    """Write the GGUF files of a request, and nothing else."""
    plan = make_plan(request)
    tree = find_tree(request.llama_cpp, emit=emit)
    with Workspace(request.output, emit=emit) as workspace:
        inputs = workspace.digest_inputs(model_files(plan.base, plan.adapter))
        return write_weights(plan, plan.template.template, inputs, tree, workspace, emit)


def modelfile(
    base: Path, adapter: Path | None, output: Path, *, gguf: Path | None, template_file: str | None, emit: Emit
) -> tuple[Path, ...]:
    """Write a Modelfile, and give its path."""
    checkpoint, _, found = _read(base, () if adapter is None else (adapter,), template_file)
    file_name = gguf.name if gguf is not None else find_ggufs(output)[0].path.name
    result = make_modelfile(ModelfileJob(base=checkpoint, template=found.template, go=found.go, gguf_name=file_name))
    for note in result.notes:
        emit(Noted(stage="modelfile", text=note))
    with Workspace(output, emit=emit) as workspace:
        return workspace.once(
            "modelfile",
            key=result,
            job=lambda staging: Written(files=write_modelfile(result, staging)),
            kind=Written,
            title=f"Modelfile for {file_name}",
        ).files


def register(folder: Path, name: str, *, replace: bool, emit: Emit) -> tuple[Registered, ...]:
    """Register every GGUF of a build folder with the parameters of its Modelfile, if Ollama builds their prompts."""
    wanted = build_name(name)
    ggufs = find_ggufs(folder)
    parameters = _modelfile_of(folder)
    server = OllamaServer.connect(emit=emit)
    require_prompts_in_ollama(tuple(gguf.path for gguf in ggufs), server)
    registered = tuple(
        register_one(
            RegisterJob(gguf=gguf, modelfile=parameters, name=wanted.with_tag(gguf.quant.value), replace=replace),
            server,
            emit=emit,
        )
        for gguf in ggufs
    )
    chosen = _recommended(parameters, ggufs)
    point_name(wanted, chosen, ggufs, server, replace=replace, emit=emit)
    return registered


def verify(
    folder: Path,
    base: Path,
    adapters: tuple[Path, ...],
    *,
    name: str | None,
    template_file: str | None,
    gates: Gates,
    data: tuple[LabelledRow, ...] = (),
    reference_memory_bytes: int | None = None,
    emit: Emit,
) -> Verdict:
    """Compare every GGUF of a folder with the reference, and write report.json and report.html there."""
    checkpoint, lora, found = _read(base, adapters, template_file)
    ggufs = find_ggufs(folder)
    server = OllamaServer.connect(emit=emit) if name is not None else None
    registered: tuple[Registered, ...] = ()
    if name is not None and server is not None:
        registered = tuple(_registered(build_name(name), gguf, server) for gguf in ggufs)
    with Workspace(folder, emit=emit) as workspace:
        job = VerifyJob(
            base=checkpoint,
            adapter=lora,
            template=found.template,
            ggufs=ggufs,
            registered=registered,
            gates=gates,
            inputs=workspace.digest_inputs(model_files(checkpoint, lora)),
            data=data,
            reference_memory_bytes=reference_memory_bytes,
        )
        return verify_once(job, server, cached_tree(None), workspace, emit)


def write_report_page(folder: Path, output: Path | None, *, emit: Emit) -> Path:
    """Make the page of the report.json in a folder.

    Args:
        folder: Where report.json is.
        output: Where to write the page; None for report.html in the folder.
        emit: Progress.

    Returns:
        The page.

    Raises:
        InputInvalid: There is no report.json, or it is damaged; something else is in the page's place.
    """
    report = read_report(folder / REPORT_NAME)
    if output is not None:
        return write_page(render_page(report), output)
    with Workspace(folder, emit=emit) as workspace:
        return write_page_once(report, workspace)


def open_page(page: Path) -> None:
    """Show a page in the user's browser.

    Raises:
        ToolMissing: No browser could be started.
    """
    if not webbrowser.open(page.resolve().as_uri()):
        raise ToolMissing(f"{page}: no browser could be started", hint=f"Open {page.resolve()} in one yourself.")


def _read(
    base: Path, adapters: tuple[Path, ...], template_file: str | None
) -> tuple[Checkpoint, Adapter | None, TemplateResult]:
    checkpoint = read_checkpoint(base)
    lora = read_adapters(adapters, checkpoint) if adapters else None
    return checkpoint, lora, make_template(TemplatesJob(base=checkpoint, adapter=lora, template_file=template_file))


def _modelfile_of(folder: Path) -> Modelfile:
    path = folder / MODELFILE_NAME
    found = read_modelfile(folder)
    if found is None:
        raise InputInvalid(f"{path}: missing", hint=f"packager modelfile BASE ADAPTER -o {folder}")
    if found.template is not None:
        raise InputInvalid(
            f"{path}: TEMPLATE has no place in it: models are registered with the GGUF's own template",
            hint="Remove it, or build again with --template FILE.",
        )
    return found


def _recommended(parameters: Modelfile, ggufs: tuple[Gguf, ...]) -> Quant:
    """Give the quant the folder's Modelfile names: what the build chose after verification."""
    wanted = Path(parameters.gguf).name
    return next((gguf.quant for gguf in ggufs if gguf.path.name == wanted), ggufs[0].quant)


def _registered(name: ModelName, gguf: Gguf, server: OllamaServer) -> Registered:
    return read_back(name.with_tag(gguf.quant.value), gguf, server)
