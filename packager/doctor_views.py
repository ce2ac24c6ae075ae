"""A diagnosis as rich shows it: a table of faults, the commands that mend them, then what is healthy and what was not seen."""

from __future__ import annotations

from collections.abc import Iterator

from rich.markup import escape
from rich.table import Table

from packager.doctor.finding import Diagnosis, Severity

_STYLES = {Severity.CRITICAL: "bold red", Severity.SERIOUS: "red", Severity.MINOR: "yellow"}


def faults_table(diagnosis: Diagnosis) -> Table:
    """Give a row for each fault, the dearest first."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("at fault", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("what it is, and what it costs", overflow="fold")
    for finding in diagnosis.findings:
        severity = f"[{_STYLES[finding.severity]}]{finding.severity.value}[/]"
        table.add_row(finding.organ.value, severity, f"{escape(finding.what)} ({finding.code})")
        table.add_row("", "", f"[dim]{escape(finding.cost)}[/]")
    return table


def mends(diagnosis: Diagnosis) -> Iterator[str]:
    """Give each command that mends something once, with what it mends."""
    for command in dict.fromkeys(finding.mend for finding in diagnosis.findings):
        organs = dict.fromkeys(f.organ.value for f in diagnosis.findings if f.mend == command)
        yield f"mends {', '.join(organs)}:"
        yield f"  {command}"


def seen(diagnosis: Diagnosis) -> Iterator[str]:
    """Give what is healthy, then what was not checked and why."""
    for healthy in diagnosis.healthy:
        yield f"[green]healthy[/]      {healthy.organ.value}: {escape(healthy.what)}"
    for missing in diagnosis.not_checked:
        how = f" ({missing.how})" if missing.how else ""
        yield f"[yellow]not checked[/]  {missing.organ.value}: {escape(missing.why + how)}"


def diagnosis_sentence(diagnosis: Diagnosis) -> str:
    """Give the diagnosis in one line of markup; what was not checked is counted in it."""
    missing = len(diagnosis.not_checked)
    tail = f"; {missing} not checked" if missing else ""
    subject = escape(f"{diagnosis.model} against {diagnosis.reference}")
    if diagnosis.findings:
        organs = ", ".join(dict.fromkeys(finding.organ.value for finding in diagnosis.findings))
        return f"[bold red]at fault: {organs}[/] ({subject}{tail})"
    if not diagnosis.healthy:
        return f"[bold yellow]not checked[/] ({subject})"
    return f"[bold green]nothing is at fault[/] ({subject}{tail})"
