"""Events, plans and verdicts as people read them: bars on a terminal, plain lines elsewhere, JSON when asked for.

Results go to stdout, everything else to stderr. NO_COLOR and CI are respected by rich.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType

from rich.console import Console as Terminal
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from packager import doctor_views, evaluation_views, template_views
from packager.artifacts import Check, Gguf, Outcome, Registered, Verdict
from packager.codec import pretty_json
from packager.demo import DemoResult
from packager.doctor.finding import Diagnosis
from packager.evaluation.summary import Summary
from packager.events import Advanced, Event, Noted, StageFinished, StageStarted
from packager.named_templates import NamedTemplate
from packager.parity.template_matrix import TemplateMatrix
from packager.pipeline import BuildResult
from packager.plan import PlanSummary
from packager.report_page.figures import size
from packager.report_page.page import PAGE_NAME
from packager.sources.demo_model import QUESTION
from packager.template_conversion import Conversion
from packager.template_proofs import ShownTemplate, TemplateDifference

_MARKS = {
    Outcome.PASSED: "[green]ok[/]",
    Outcome.FAILED: "[red]differs[/]",
    Outcome.NOT_CHECKED: "[yellow]not checked[/]",
}


class Console:
    """Where a command shows things; a context manager, because a progress bar must be closed.

    Args:
        quiet: Show results and warnings only.
        as_json: `result` prints JSON; implies no other text on stdout.
    """

    def __init__(self, *, quiet: bool = False, as_json: bool = False) -> None:
        self._quiet = quiet
        self._as_json = as_json
        self._out = Terminal(file=sys.stdout, highlight=False, soft_wrap=not sys.stdout.isatty())
        self._err = Terminal(file=sys.stderr, highlight=False, soft_wrap=not sys.stderr.isatty())
        self._bars = Progress(
            TextColumn("  {task.description:<12}"),
            BarColumn(bar_width=28),
            TextColumn("{task.fields[amount]}"),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[detail]}[/]"),
            console=self._err,
            transient=True,
            disable=quiet or not self._err.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Console:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def emit(self, event: Event) -> None:
        """Show one event of a running stage."""
        match event:
            case StageStarted():
                self.note(f"{event.stage}: {event.title}")
            case Advanced():
                self._advance(event)
            case Noted():
                style = "yellow" if event.warning else "dim"
                if event.warning or not self._quiet:
                    self._err.print(f"  [{style}]{escape(event.text)}[/]")
            case StageFinished():
                self._drop(event.stage)
                how = "done before, still valid" if event.reused else f"{event.seconds:.1f} s"
                self.note(f"{event.stage}: [dim]{how}[/]")

    def note(self, markup: str) -> None:
        """Show one line of progress on stderr, unless quiet."""
        if not self._quiet:
            self._err.print(markup)

    def line(self, text: str = "") -> None:
        """Show one line of the result on stdout, unless the result is JSON."""
        if not self._as_json:
            self._out.print(escape(text))

    def result(self, value: object) -> None:
        """Show the result as JSON on stdout, when JSON was asked for."""
        if self._as_json:
            sys.stdout.write(pretty_json(value))
            sys.stdout.flush()

    def plan(self, summary: PlanSummary) -> None:
        """Show what a build would do."""
        if self._as_json:
            self.result(summary)
            return
        rows = [("base", f"{summary.base} ({summary.architecture})")]
        if summary.adapter:
            rows.append(("adapter", f"{summary.adapter}, {summary.updates} updated tensors"))
        rows.append(("template", f"{summary.template}; stops: {' '.join(summary.stops) or 'none'}"))
        rows += [("output", f"{file.name}  {size(file.size_bytes)}") for file in summary.files]
        rows.append(("disk", f"{size(summary.peak_disk_bytes)} of {size(summary.free_disk_bytes)} free"))
        rows.append(("memory", f"{size(summary.peak_memory_bytes)} at most, while weights are written"))
        rows.append(("Ollama", ", ".join(summary.names) or "nothing is registered"))
        rows += [("note", note) for note in summary.notes]
        for label, text in rows:
            self.line(f"{label:>9}  {text}")

    def build(self, result: BuildResult) -> None:
        """Show what a build made: the verdict, the files, and what to type next."""
        if self._as_json:
            self.result(result)
            return
        self.ggufs(result.ggufs)
        if result.verdict is not None:
            self.verdict(result.verdict)
            self.line(f"report: {result.folder / PAGE_NAME}")
        else:
            self._out.print("[bold yellow]verdict: not checked[/] (--no-verify)")
        self.registered(result.registered)
        self.line(f"recommended: {result.recommended.value}")
        self.line(f"chat: packager chat {result.folder}")

    def demo(self, result: DemoResult) -> None:
        """Show what the demo made, the two answers, and what to try next."""
        if self._as_json:
            self.result(result)
            return
        self.build(result.build)
        self.line()
        self.line(f"{QUESTION}")
        self.line(f"  before (transformers, the base): {result.before.strip()}")
        self.line(f"  after ({result.engine}): {result.after.strip()}")
        self.line()
        self.line("try next:")
        for command in _next_commands(result):
            self.line(f"  {command}")

    def ggufs(self, ggufs: tuple[Gguf, ...]) -> None:
        """Show GGUF files with size and digest."""
        self.result(ggufs)
        for gguf in ggufs:
            self.line(f"{gguf.path}  {size(gguf.size_bytes)}  sha256:{gguf.sha256}")

    def files(self, files: tuple[Path, ...]) -> None:
        """Show the names of written files."""
        self.result(files)
        for file in files:
            self.line(str(file))

    def registered(self, models: tuple[Registered, ...]) -> None:
        """Show what Ollama stored."""
        self.result(models)
        for model in models:
            bytes_kept = "the same bytes" if model.same_bytes else "other bytes"
            self.line(f"{model.name}  sha256:{model.blob_sha256} ({bytes_kept}), prompt from {model.template_source}")

    def verdict(self, verdict: Verdict) -> None:
        """Show every check, then one sentence."""
        if self._as_json:
            self.result(verdict)
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for title in ("subject", "engine", "check", "", "figures"):
            table.add_column(title, no_wrap=title in ("subject", "engine"), overflow="fold")
        for check in verdict.checks:
            table.add_row(check.subject, check.engine, check.name, _MARKS[check.outcome], escape(check.detail))
        self._out.print(table)
        self._out.print(sentence(verdict))

    def verbatim(self, text: str) -> None:
        """Write a text to stdout as it is."""
        sys.stdout.write(text if text.endswith("\n") else text + "\n")

    def named_templates(self, templates: tuple[NamedTemplate, ...]) -> None:
        """Show the named templates: name, title, every trainer's name, and where each is defined."""
        self.result(templates)
        for template in templates:
            self.line(f"{template.name:<18}  {template.title}")
            self.line(f"{'':<18}  {template.source}" + (f": {' '.join(template.aliases)}" if template.aliases else ""))

    def shown_template(self, shown: ShownTemplate) -> None:
        """Show what a template is."""
        self.result(shown)
        for label, text in template_views.shown_rows(shown):
            self.line(f"{label:>9}  {text}")

    def conversion(self, done: Conversion) -> None:
        """Show the files of a conversion, what the engines make of them, and what could not be written."""
        if self._as_json:
            self.result(done)
            return
        self.files(done.files)
        self.template_matrix(done.matrix)
        for form in done.missing:
            self.line(f"no {form.file} ({form.code}): {form.reason}. {form.instead}")

    def template_matrix(self, matrix: TemplateMatrix) -> None:
        """Show what every engine makes of a template."""
        if self._as_json:
            self.result(matrix)
            return
        if any(row.cells for row in matrix.rows):
            self._out.print(template_views.matrix_table(matrix))
        for note in template_views.matrix_notes(matrix):
            self.line(note)
        for loss in matrix.losses:
            self.line(loss)
        self._out.print(f"{template_views.matrix_sentence(matrix)} (reference: {matrix.reference})")

    def template_difference(self, found: TemplateDifference) -> None:
        """Show where the prompts of two templates part."""
        if self._as_json:
            self.result(found)
            return
        for line in template_views.difference_text(found):
            self._out.print(line)

    def evaluation(self, found: Summary, folder: Path) -> None:
        """Show the figures of an evaluation, and the folder that its rows are in."""
        if self._as_json:
            self.result(found)
            return
        self._out.print(evaluation_views.figures_table(found))
        for line in evaluation_views.evaluation_lines(found, folder):
            self.line(line)

    def diagnosis(self, found: Diagnosis) -> None:
        """Show what is at fault, what mends it, and what else was seen."""
        if self._as_json:
            self.result(found)
            return
        if found.findings:
            self._out.print(doctor_views.faults_table(found))
        for line in doctor_views.mends(found):
            self.line(line)
        for markup in doctor_views.seen(found):
            self._out.print(markup)
        if found.written is not None:
            self.line(f"written: {found.written}")
        self._out.print(doctor_views.diagnosis_sentence(found))

    def _advance(self, event: Advanced) -> None:
        key = event.stage
        if key not in self._tasks:
            self._tasks[key] = self._bars.add_task(key, total=event.total, amount="", detail="")
        done, total = (
            (size(event.done), size(event.total)) if event.unit == "B" else (str(event.done), str(event.total))
        )
        self._bars.update(
            self._tasks[key],
            completed=event.done,
            total=event.total,
            amount=f"{done}/{total}",
            detail=escape(event.detail),
        )

    def _drop(self, stage: str) -> None:
        if stage in self._tasks:
            self._bars.remove_task(self._tasks.pop(stage))


def _next_commands(result: DemoResult) -> list[str]:
    folder = result.build.folder
    commands = [f"packager chat {folder}", f"packager plan {result.base} {result.adapter} -o {folder}"]
    if result.build.registered:
        commands.insert(0, f"ollama run {result.build.registered[0].name.partition(':')[0]}")
    else:
        commands.append(f"packager register {folder} --name NAME   # once an Ollama server runs")
    return commands


def sentence(verdict: Verdict) -> str:
    """Give a verdict in one line of markup; what was not checked is counted in it, never silently passed."""
    failed = [check for check in verdict.checks if check.outcome is Outcome.FAILED]
    skipped = sum(check.outcome is Outcome.NOT_CHECKED for check in verdict.checks)
    tail = f", {skipped} not checked" if skipped else ""
    if failed:
        first: Check = failed[0]
        return f"[bold red]verdict: differs from the reference[/] ({len(failed)} failed{tail}); first: " + escape(
            f"{first.subject}, {first.engine}, {first.name}: {first.detail}"
        )
    if not verdict.passed:
        return "[bold yellow]verdict: not checked[/]"
    passed = sum(check.outcome is Outcome.PASSED for check in verdict.checks)
    return f"[bold green]verdict: as the reference[/] ({passed} checks passed{tail})"
