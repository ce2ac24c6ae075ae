"""The build in order: base + adapter -> template -> every GGUF -> Ollama -> verdict -> Modelfile and report."""

from __future__ import annotations

import shlex
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from packager.artifacts import ChatTemplate, Check, Gguf, Modelfile, Outcome, Quant, Registered, Verdict
from packager.codec import digest
from packager.durable import FileDigest, sha256_file
from packager.engines.ollama import OllamaServer
from packager.errors import OllamaFailed
from packager.events import Emit, Noted
from packager.formats.build_folder import IMATRIX_NAME, importance_name
from packager.formats.model_files import model_files
from packager.formats.model_name import ModelName
from packager.parity.gates import Gates
from packager.parity.report import REPORT_NAME, Report, write_report
from packager.plan import BuildRequest, Plan, make_plan
from packager.report_page.page import PAGE_NAME, render_page, write_page
from packager.sources.llama_cpp_tree import LlamaCppTree, find_tree
from packager.stages.blame import TraceJob, blame_line, trace
from packager.stages.modelfile import ModelfileJob, make_modelfile, write_modelfile
from packager.stages.register import RegisterJob, refuse_taken_name, register
from packager.stages.templates import Target, TemplateResult, write_rewritten, write_templates
from packager.stages.verify import Verified, VerifyJob, verify
from packager.stages.weights import HF_FOLDER, CalibrateJob, KeptCheckpoint, QuantizeJob, calibrate, gguf_name, quantize
from packager.template_gate import template_for_ollama
from packager.tool_versions import tool_versions
from packager.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class BuildResult:
    """What a build made. `verdict` is None when verification was not asked for; `recommended` is what NAME stands for."""

    folder: Path
    ggufs: tuple[Gguf, ...]
    recommended: Quant
    registered: tuple[Registered, ...]
    verdict: Verdict | None


@dataclass(frozen=True, kw_only=True)
class WeightsKey:
    """Everything the bytes of the GGUF files depend on."""

    inputs: tuple[FileDigest, ...]
    quants: tuple[Quant, ...]
    template: str
    name: str
    file_stem: str
    converter: str
    versions: tuple[str, ...]
    importance: str = ""
    keep_hf: str = ""


@dataclass(frozen=True, kw_only=True)
class ImportanceKey:
    """Everything an importance matrix depends on: the file it is, or what it is computed from."""

    file: tuple[FileDigest, ...]
    inputs: tuple[FileDigest, ...] = ()
    rows: str = ""
    template: str = ""
    versions: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class VerifyKey:
    """Everything a verdict depends on."""

    inputs: tuple[FileDigest, ...]
    ggufs: tuple[str, ...]
    template: str
    registered: tuple[Registered, ...]
    served: tuple[str, ...]
    server: str
    converter: str
    gates: Gates
    data: str
    versions: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TemplatesKey:
    """Everything the bytes of a template's forms depend on."""

    template: TemplateResult
    targets: tuple[Target, ...]


@dataclass(frozen=True, kw_only=True)
class Written:
    """Names of small files a stage wrote."""

    files: tuple[Path, ...]


def build(request: BuildRequest, *, gates: Gates | None = None, emit: Emit) -> BuildResult:
    """Make every artefact, register them, and compare them with the reference.

    Killed at any moment, the same call continues: finished stages are reused by their receipts.

    Raises:
        PlanRefused: Something stands in the way; nothing was written.
        Unsupported: This Ollama would build other prompts than training did; no weights were written.
        OllamaFailed: Ollama refused or died; the files in the build folder are complete.
    """
    plan = make_plan(request)
    server = connect(request, plan.name, emit=emit)
    tree = find_tree(request.llama_cpp, emit=emit)
    with Workspace(request.output, emit=emit) as workspace:
        inputs = workspace.digest_inputs(model_files(plan.base, plan.adapter))
        in_gguf = plan.template.template
        if server is not None and plan.name is not None:
            _refuse_taken_names(plan, plan.name, inputs, server, tree, workspace)
        write_templates_once(plan.template, workspace, emit)
        if server is not None and plan.name is not None:
            in_gguf = template_for_ollama(plan, inputs, server, tree, workspace, emit)
            if in_gguf != plan.template.template:
                write_rewritten_once(in_gguf.text, workspace)
        ggufs = write_weights(plan, in_gguf, inputs, tree, workspace, emit)
        registered = _register(plan, ggufs, server, emit) if server is not None and plan.name is not None else ()
        verdict = None
        if request.verify:
            job = VerifyJob(
                base=plan.base,
                adapter=plan.adapter,
                template=plan.template.template,
                ggufs=ggufs,
                registered=registered,
                gates=gates or Gates(),
                inputs=inputs,
                data=plan.data,
                reference_memory_bytes=request.reference_memory_bytes,
            )
            verdict = verify_once(job, server, tree, workspace, emit)
        recommended = recommend(request.quants, verdict)
        _write_modelfile(plan, recommended, workspace, emit)
        if registered and server is not None and plan.name is not None:
            point_name(plan.name, recommended, ggufs, server, replace=request.replace, emit=emit)
    return BuildResult(
        folder=request.output, ggufs=ggufs, recommended=recommended, registered=registered, verdict=verdict
    )


def connect(request: BuildRequest, name: ModelName | None, *, emit: Emit) -> OllamaServer | None:
    """Give the Ollama server a build works with, or None, saying why and what to do later."""
    if not request.register:
        return None
    if name is None:
        emit(Noted(stage="register", text="no --name: nothing is registered in Ollama"))
        return None
    try:
        return OllamaServer.connect(emit=emit)
    except OllamaFailed as error:
        later = shlex.join(["packager", "register", str(request.output), "--name", str(name)])
        emit(Noted(stage="register", text=f"{error.message}; register later: {later}", warning=True))
        return None


def recommend(quants: tuple[Quant, ...], verdict: Verdict | None) -> Quant:
    """Give the quant that NAME stands for: the smallest that passes its gates, or the most exact when none is known to.

    A type for which no limit was measured is not known to be near enough.
    """
    checks = () if verdict is None else verdict.checks
    unknown = ("llama.cpp", "distribution", Outcome.NOT_CHECKED)
    open_ones = {c.subject for c in checks if (c.engine, c.name, c.outcome) == unknown}
    passing = [q for q in quants if verdict is not None and verdict.passed_for(q) and q.value not in open_ones]
    return passing[-1] if passing else quants[0]


def point_name(
    name: ModelName, quant: Quant, ggufs: tuple[Gguf, ...], server: OllamaServer, *, replace: bool, emit: Emit
) -> None:
    """Make NAME itself, without a quant's tag, stand for one of its quants.

    Args:
        name: NAME, with Ollama's default tag.
        quant: The quant it shall stand for; registered already.
        ggufs: The files of the build folder: a NAME that stands for one of them is ours to change.
        server: Where.
        replace: Whether NAME may be taken from another model.
        emit: Told what NAME stands for.

    Raises:
        OllamaFailed: NAME is another model.
    """
    source = name.with_tag(quant.value)
    refuse_taken_name(name, server, replace=replace, ours=tuple(gguf.sha256 for gguf in ggufs))
    server.copy(source, name)
    emit(Noted(stage="register", text=f"{name} stands for {source}"))


def _refuse_taken_names(
    plan: Plan,
    name: ModelName,
    inputs: tuple[FileDigest, ...],
    server: OllamaServer,
    tree: LlamaCppTree,
    workspace: Workspace,
) -> None:
    """Stop before the long part when a name is taken by something that this build would not make."""
    keys = [weights_key(plan, template, inputs, tree) for template in plan.template.template.for_gguf]
    made = [gguf for key in keys for gguf in workspace.recorded("quantize", tuple[Gguf, ...], key=key) or ()]
    for wanted in (*(name.with_tag(quant.value) for quant in plan.request.quants), name):
        refuse_taken_name(wanted, server, replace=plan.request.replace, ours=tuple(gguf.sha256 for gguf in made))


def write_templates_once(
    found: TemplateResult, workspace: Workspace, emit: Emit, targets: tuple[Target, ...] = tuple(Target)
) -> tuple[Path, ...]:
    """Write the canonical template and its other forms, or reuse them by their receipt."""
    for note in found.notes:
        emit(Noted(stage="template", text=note))
    return workspace.once(
        "template",
        key=TemplatesKey(template=found, targets=targets),
        job=lambda staging: Written(files=write_templates(found, staging, targets)),
        kind=Written,
        title="canonical chat template and its forms for other engines",
    ).files


def write_rewritten_once(text: str, workspace: Workspace) -> tuple[Path, ...]:
    """Write the template that the GGUF files have where Ollama needs it written anew, or reuse it by its receipt."""
    return workspace.once(
        "template-written-anew",
        key=text,
        job=lambda staging: Written(files=write_rewritten(text, staging)),
        kind=Written,
        title="chat template written anew for the GGUF",
    ).files


def weights_key(plan: Plan, template: ChatTemplate, inputs: tuple[FileDigest, ...], tree: LlamaCppTree) -> WeightsKey:
    """Give what the bytes of a plan's GGUF files with a template depend on."""
    return WeightsKey(
        inputs=inputs,
        quants=plan.request.quants,
        template=digest(template),
        name=plan.file_stem,
        file_stem=plan.file_stem,
        converter=tree.version,
        versions=tool_versions(),
        importance=_importance_digest(plan),
        keep_hf=digest((plan.base.dtype, plan.template.template.text)) if plan.request.keep_hf else "",
    )


def _importance_digest(plan: Plan) -> str:
    """Give the digest of what an importance matrix comes from, empty without one; a GGUF says the name of its data."""
    request = plan.request
    if request.imatrix is not None:
        return sha256_file(request.imatrix)
    if request.calibrate is None:
        return ""
    return digest((request.calibrate.name, *(row.sha256 for row in plan.calibration)))


def importance_once(
    plan: Plan, job: QuantizeJob, inputs: tuple[FileDigest, ...], workspace: Workspace, emit: Emit
) -> Path | None:
    """Put the importance matrix into the build folder, computed first where it comes from conversations."""
    request = plan.request
    if request.imatrix is not None:
        source, target = request.imatrix, importance_name(request.imatrix)
        return workspace.once(
            "imatrix",
            key=ImportanceKey(file=workspace.digest_inputs((source,))),
            job=lambda staging: Path(shutil.copyfile(source, staging / target)),
            kind=Path,
            title=f"importance matrix {source.name}",
            outputs=(target,),
        )
    if request.calibrate is None:
        return None
    dataset, text = request.calibrate.name, plan.template.template.text
    versions = (*tool_versions(), job.tree.version)
    key = ImportanceKey(file=(), inputs=inputs, rows=_importance_digest(plan), template=text, versions=versions)

    def compute(staging: Path) -> Path:
        made = CalibrateJob(
            pass_through=replace(job, output=staging),
            rows=plan.calibration,
            chat_template=text,
            dataset=dataset,
            output=staging / IMATRIX_NAME,
        )
        return calibrate(made, emit=emit)

    return workspace.once(
        "calibrate", key=key, job=compute, kind=Path, title=f"importance matrix of {dataset}", outputs=(IMATRIX_NAME,)
    )


def write_weights(
    plan: Plan,
    template: ChatTemplate,
    inputs: tuple[FileDigest, ...],
    tree: LlamaCppTree,
    workspace: Workspace,
    emit: Emit,
) -> tuple[Gguf, ...]:
    """Write every GGUF of a plan with a template in one pass, or reuse them by their receipt."""
    key = weights_key(plan, template, inputs, tree)
    kept = KeptCheckpoint(dtype=plan.base.dtype, chat_template=plan.template.template.text)
    wanted = QuantizeJob(
        base=plan.base,
        adapter=plan.adapter,
        quants=plan.request.quants,
        template=template,
        name=key.name,
        file_stem=plan.file_stem,
        output=workspace.folder,
        tree=tree,
        keep_hf=kept if plan.request.keep_hf else None,
    )
    wanted = replace(wanted, imatrix=importance_once(plan, wanted, inputs, workspace, emit))

    def job(staging: Path) -> tuple[Gguf, ...]:
        return quantize(replace(wanted, output=staging), emit=emit)

    title = "merge and write " + ", ".join(plan.request.quants)
    return workspace.once(
        "quantize",
        key=key,
        job=job,
        kind=tuple[Gguf, ...],
        title=title,
        outputs=_known_names(plan),
        digests=lambda ggufs: tuple(
            FileDigest(name=gguf.path.name, size_bytes=gguf.size_bytes, sha256=gguf.sha256) for gguf in ggufs
        ),
        continues=True,
    )


def _known_names(plan: Plan) -> tuple[str, ...]:
    """Give the names that the pass will write, as far as they are known: a foreign file in their place is found before it."""
    planned = tuple(file.name for file in plan.summary.files)
    return (*planned, f"{HF_FOLDER}/config.json") if plan.request.keep_hf else planned


def _register(plan: Plan, ggufs: tuple[Gguf, ...], server: OllamaServer, emit: Emit) -> tuple[Registered, ...]:
    assert plan.name is not None  # noqa: S101  # only called with a name
    jobs = [
        RegisterJob(
            gguf=gguf,
            modelfile=modelfile_for(plan, gguf.path.name),
            name=plan.name.with_tag(gguf.quant.value),
            replace=plan.request.replace,
        )
        for gguf in ggufs
    ]
    return tuple(register(job, server, emit=emit) for job in jobs)


def modelfile_for(plan: Plan, gguf_name: str) -> Modelfile:
    """Give the Modelfile of one GGUF of a plan, as values."""
    job = _modelfile_job(plan, gguf_name)
    return make_modelfile(job).modelfile


def verify_once(
    job: VerifyJob, server: OllamaServer | None, tree: LlamaCppTree | None, workspace: Workspace, emit: Emit
) -> Verdict:
    """Compare with the reference and write report.json, or give the verdict that was found for exactly this before.

    What Ollama stores under a name is part of that: its parameters, system prompt and template can change without its weights.
    Where something is wrong, say which stage is to blame. Without a `tree` no tensors are compared.
    """
    key = VerifyKey(
        inputs=job.inputs,
        ggufs=tuple(gguf.sha256 for gguf in job.ggufs),
        template=digest(job.template),
        registered=job.registered,
        served=tuple(digest(server.show(model.name)) for model in job.registered) if server is not None else (),
        server=server.version if server is not None else "none",
        converter=tree.version if tree is not None else "none",
        gates=job.gates,
        data=digest(job.data),
        versions=tool_versions(),
    )

    def compare(staging: Path) -> Report:
        found = verify(job, server, emit=emit)
        traced = trace(_trace_job(job, found, tree), server, emit=emit)
        evidence = replace(found.evidence, tensors=traced.tensors, blame=traced.blame)
        verdict = replace(found.verdict, checks=_behind_structure(found.verdict.checks, traced.checks))
        report = Report(verdict=verdict, gates=job.gates, ggufs=job.ggufs, evidence=evidence)
        write_report(report, staging / REPORT_NAME)
        return report

    report = workspace.once("verify", key=key, job=compare, kind=Report, title="compare with the reference")
    if report.evidence.blame is not None:
        emit(Noted(stage="verify", text=blame_line(report.evidence.blame), warning=True))
    write_page_once(report, workspace)
    return report.verdict


def _behind_structure(checks: tuple[Check, ...], tensors: tuple[Check, ...]) -> tuple[Check, ...]:
    """Put each file's check of its tensors behind that of its structure."""
    mine = {check.subject: check for check in tensors}
    found: list[Check] = []
    for check in checks:
        found.append(check)
        if (check.engine, check.name) == ("file", "structure") and check.subject in mine:
            found.append(mine[check.subject])
    return tuple(found)


def write_page_once(report: Report, workspace: Workspace) -> Path:
    """Write report.html beside report.json, or leave it when it is this report's page already.

    It is a stage of its own, so that a newer packager makes the page again and compares nothing again.
    """
    page = render_page(report)
    return workspace.once(
        "report",
        key=page,
        job=lambda staging: write_page(page, staging / PAGE_NAME),
        kind=Path,
        title="the report as a page",
        outputs=(PAGE_NAME,),
    )


def _trace_job(job: VerifyJob, found: Verified, tree: LlamaCppTree | None) -> TraceJob:
    return TraceJob(
        base=job.base,
        adapter=job.adapter,
        template=job.template,
        ggufs=job.ggufs,
        registered=job.registered,
        verdict=found.verdict,
        tokenizer=found.evidence.tokenizer,
        tree=tree,
        reference_memory_bytes=job.reference_memory_bytes,
    )


def _write_modelfile(plan: Plan, quant: Quant, workspace: Workspace, emit: Emit) -> None:
    result = make_modelfile(_modelfile_job(plan, gguf_name(plan.file_stem, quant)))
    for note in result.notes:
        emit(Noted(stage="modelfile", text=note))
    workspace.once(
        "modelfile",
        key=result,
        job=lambda staging: Written(files=write_modelfile(result, staging)),
        kind=Written,
        title=f"Modelfile for {quant.value}",
    )


def _modelfile_job(plan: Plan, file_name: str) -> ModelfileJob:
    found = plan.template
    return ModelfileJob(base=plan.base, template=found.template, go=found.go, gguf_name=file_name)


def failed(verdict: Verdict | None) -> bool:
    """Whether a verdict that was made has a failed check."""
    return verdict is not None and any(check.outcome is Outcome.FAILED for check in verdict.checks)
