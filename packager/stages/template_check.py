"""The proof of a chat template: every engine's prompts and token ids against transformers', without the model's weights.

Each engine gets a probe, a model of a few megabytes with the real vocabulary, so that a template is proved in seconds and
before anything large is written.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from packager.artifacts import Conversation, Outcome
from packager.chat.lmdeploy import assembled
from packager.chat.turn_model import alternates
from packager.engines.ollama import OllamaServer
from packager.engines.ollama_api import OllamaRefused
from packager.engines.tokenizer import TokenizerReference
from packager.errors import PackagerError
from packager.events import Emit
from packager.evidence import Cell
from packager.formats.gguf import MetadataEntry
from packager.parity.causes import DIFFERS, NO_TOOLS, without_calls
from packager.parity.losses import stated_losses
from packager.parity.steps import Steps
from packager.parity.template_matrix import Asked, TemplateMatrix, TemplateRow, template_cells
from packager.stages.template_engines import Column, Probes, Served, TemplateCheckJob, ask, asked
from packager.weights.vocabulary import vocabulary_of_folder, vocabulary_of_gguf

__all__ = ["Column", "Served", "TemplateCheckJob", "Vocabulary", "check_template"]

Vocabulary = tuple[MetadataEntry, ...]

STAGE = "template"
# Where Ollama takes its prompt from when it is not the GGUF's template, and what that is called.
_BYPASSED = {"template": "AUTODETECT", "renderer": "RENDERER_FORCED"}

_REFUSED, _ROLES = "REFUSED", "ROLES"


def check_template(
    job: TemplateCheckJob,
    connect: Callable[[], OllamaServer],
    emit: Emit,
    *,
    vocabulary: Callable[[], Vocabulary] | None = None,
) -> TemplateMatrix:
    """Compare every engine with transformers on every conversation.

    Args:
        job: What to prove.
        connect: Gives the Ollama server, when it is asked; an error of it becomes a row that was not checked.
        emit: Gets the progress, one step for each conversation and engine.
        vocabulary: Reads the folder's vocabulary, where a reader is under way already.

    Raises:
        InputInvalid: transformers cannot read the tokenizer. What llama.cpp's converter cannot read is a row that was not
            checked: vLLM and LMDeploy do without it.
        UnsafeInput: The template does not end on one of the conversations.
    """
    with (
        tempfile.TemporaryDirectory(prefix="packager-") as scratch,
        TokenizerReference(job.folder, job.template.text) as reference,
        ThreadPoolExecutor(max_workers=1) as background,
    ):
        read = background.submit(_vocabulary, job, vocabulary)
        steps = Steps(len(job.conversations) * (len(job.columns) + 1), emit, STAGE)
        expected = ask(reference, job.conversations, steps)
        with Probes(Path(scratch), job, read.result) as probes:
            rows = tuple(_row(column, job, reference, expected, probes, connect, steps) for column in job.columns)
        matrix = TemplateMatrix(
            source=job.template.source,
            original_sha256=job.template.original_sha256,
            reference=f"{reference.name} {reference.version()}",
            conversations=job.conversations,
            rows=rows,
            losses=stated_losses(rows),
        )
    return _written_anew(job, matrix, connect, emit)


def _written_anew(
    job: TemplateCheckJob, matrix: TemplateMatrix, connect: Callable[[], OllamaServer], emit: Emit
) -> TemplateMatrix:
    """Try the form that is written anew where Ollama does not build the prompts, and take its rows where that helps."""
    failed = any(row.engine == Column.OLLAMA and row.differs for row in matrix.rows)
    if not failed or job.served.rewritten is None:
        return matrix
    served = replace(job.served, template=job.served.rewritten, rewritten=None)
    columns = tuple(column for column in job.columns if column in (Column.LLAMA_CPP, Column.OLLAMA))
    anew = check_template(replace(job, served=served, columns=columns), connect, emit)
    if any(row.differs or row.not_checked for row in anew.rows):
        return matrix
    by_engine = {row.engine: row for row in anew.rows}
    rows = tuple(by_engine.get(row.engine, row) for row in matrix.rows)
    return replace(matrix, rows=rows, rewritten=True, losses=stated_losses(rows))


def _vocabulary(job: TemplateCheckJob, vocabulary: Callable[[], Vocabulary] | None) -> Vocabulary:
    if job.served.gguf is not None:
        return vocabulary_of_gguf(job.served.gguf)
    return vocabulary_of_folder(job.folder, job.tree) if vocabulary is None else vocabulary()


def _row(
    column: Column,
    job: TemplateCheckJob,
    reference: TokenizerReference,
    expected: Asked,
    probes: Probes,
    connect: Callable[[], OllamaServer],
    steps: Steps,
) -> TemplateRow:
    try:
        with asked(column, job, probes, connect, steps) as (version, found, source):
            cells = template_cells(
                job.conversations,
                expected,
                found,
                render=reference.render,
                tokens=reference.tokens,
                piece=reference.piece,
                stripped_bos=reference.bos_text if column in (Column.OLLAMA, Column.OLLAMA_GO) else "",
            )
    except OllamaRefused as error:  # it is there and will not take the model: no answer is not what training built
        cells = tuple(
            Cell(conversation=p.id, group=p.group, outcome=Outcome.FAILED, detail=error.message, code=_REFUSED)
            for p in job.conversations
        )
        return TemplateRow(engine=column.value, version="", cells=cells)
    except PackagerError as error:
        way_out = f" ({error.hint})" if error.hint else ""
        return TemplateRow(engine=column.value, version="", not_checked=error.message + way_out)
    prompts = zip(cells, job.conversations, found.prompts, strict=True)
    known = tuple(
        replace(cell, code=_known_code(column, source, probe, prompt, job.served)) if cell.code == DIFFERS else cell
        for cell, probe, prompt in prompts
    )
    return TemplateRow(engine=column.value, version=version, cells=known)


def _known_code(column: Column, source: str, probe: Conversation, prompt: object, served: Served) -> str:
    """Give what is known of a form, for a difference that nothing else explains."""
    if column is Column.OLLAMA and source in _BYPASSED:
        return _BYPASSED[source]
    form = served.lmdeploy if column is Column.LMDEPLOY else None
    if column is Column.OLLAMA_GO or form is not None:
        if without_calls(replace(probe, tools=())) != probe:
            return NO_TOOLS
        if not alternates(probe.messages) and (form is None or assembled(form, probe.messages) == prompt):
            return _ROLES
    return DIFFERS
