"""An evaluation's figures as rich shows them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.table import Table

from packager.evaluation.row_file import ROWS_NAME
from packager.evaluation.summary import Figure, Summary


def figures_table(found: Summary) -> Table:
    """Give a row for each figure, with both sides and their difference where there is a reference."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    compared = found.header.reference is not None
    for title in ("", "reference", "packaged", "difference", "95 % interval") if compared else ("", "packaged"):
        table.add_column(title, justify="right" if title else "left", no_wrap=True)
    for figure in found.figures:
        table.add_row(figure.name, *_cells(figure))
    return table


def evaluation_lines(found: Summary, folder: Path) -> Iterator[str]:
    """Give what the figures are of, one line each."""
    yield f"{found.scored} of {found.rows} rows scored" + (
        f", {found.same_predictions} answers the same on both sides" if found.same_predictions is not None else ""
    )
    if found.interval_method:
        yield f"interval: {found.interval_method}"
    yield f"metric: {found.header.metric}"
    yield f"rows: {folder / ROWS_NAME}"


def _cells(figure: Figure) -> Iterator[str]:
    if figure.reference is None or figure.difference is None or figure.interval is None:
        yield f"{figure.packaged:.4f}"
        return
    yield from (f"{figure.reference:.4f}", f"{figure.packaged:.4f}", f"{figure.difference:+.4f}")
    yield f"{figure.interval.low:+.4f} to {figure.interval.high:+.4f}"
