"""Decides, before the long part of a build, which text the GGUF files get, or stops it at an Ollama that no text suits."""

from __future__ import annotations

from dataclasses import dataclass, replace

from packager.artifacts import ChatTemplate, Outcome
from packager.chat.ollama_choice import predict_choice
from packager.chat.probes import CORE, load_probes
from packager.codec import digest
from packager.durable import FileDigest
from packager.engines.ollama import OllamaServer
from packager.errors import Unsupported
from packager.events import Emit, Noted
from packager.formats.fine_tuned import tokenizer_folder
from packager.parity.template_matrix import TemplateMatrix
from packager.plan import Plan
from packager.sources.llama_cpp_tree import LlamaCppTree
from packager.stages.template_check import Column, Served, TemplateCheckJob, check_template
from packager.tool_versions import tool_versions
from packager.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class ProofKey:
    """Everything that decides what an Ollama makes of a template."""

    inputs: tuple[FileDigest, ...]
    template: str
    converter: str
    server: str
    versions: tuple[str, ...]


def template_for_ollama(
    plan: Plan,
    inputs: tuple[FileDigest, ...],
    server: OllamaServer,
    tree: LlamaCppTree,
    workspace: Workspace,
    emit: Emit,
) -> ChatTemplate:
    """Give the template whose text the GGUF files get: the canonical one, or its form written anew where this Ollama needs it.

    Raises:
        Unsupported: With the reason code, the first conversation, and the way out.
    """
    out = "Build without registering: --no-register. Every conversation: packager template check BASE ADAPTER"
    found = plan.template.template
    choice = predict_choice(server.version, architecture=plan.base.architecture, jinja=found.text)
    if choice.code:
        raise Unsupported(f"{plan.base.folder}: {choice.reason} ({choice.code})", hint=out)
    job = TemplateCheckJob(
        folder=tokenizer_folder(plan.base, plan.adapter),
        template=found,
        served=Served(template=found.text, adds_bos=found.adds_bos, rewritten=found.rewritten),
        conversations=tuple(probe for probe in load_probes() if probe.group == CORE),
        columns=(Column.OLLAMA,),
        tree=tree,
    )
    matrix = workspace.once(
        "template-in-ollama",
        key=ProofKey(
            inputs=inputs,
            template=digest(found),
            converter=tree.version,
            server=server.version,
            versions=tool_versions(),
        ),
        job=lambda _: check_template(job, lambda: server, emit),
        kind=TemplateMatrix,
        title=f"what Ollama {server.version} makes of the template",
    )
    failed = next((c for row in matrix.rows for c in row.cells if c.outcome is Outcome.FAILED), None)
    if failed is not None:
        reason = failed.detail.removeprefix(f"{failed.code}: ")
        form = plan.template.rewritten
        if form.text is None:
            reason += f"; written anew for it there is none ({form.code}: {form.reason})"
        raise Unsupported(
            f"{found.source}: Ollama {server.version} does not build the prompt of training for conversation "
            f"{failed.conversation} ({failed.code}): {reason}",
            hint=out,
        )
    if not matrix.rewritten or found.rewritten is None:
        return found
    text = f"Ollama {server.version} does not build these prompts from the template: the GGUF gets it written anew"
    emit(Noted(stage="template", text=f"{text}, and it takes no tools", warning=True))
    return replace(found, text=found.rewritten)
