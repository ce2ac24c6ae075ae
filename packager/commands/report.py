"""`packager report`: make report.html from report.json again, and open it."""

from __future__ import annotations

from pathlib import Path

import click

from packager.commands import options


@click.command(short_help="Make a build folder's report.html again, and open it.")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--open", "opened", is_flag=True, help="Open it in the browser.")
@click.option(
    "-o", "--output", metavar="FILE", type=click.Path(path_type=Path), help="Write here instead of FOLDER/report.html."
)
@options.quiet
def report(folder: Path, opened: bool, output: Path | None, quiet: bool) -> None:
    """Make report.html from the report.json in FOLDER: one file that needs no network, in English and Chinese.

    `build` and `verify` leave both. Reading them needs neither torch nor the files that were compared.

    \b
    Examples:
      packager report ./out --open
      packager report ./release -o ./report.html
    """
    from packager.console import Console
    from packager.single_stages import open_page, write_report_page

    with Console(quiet=quiet) as console:
        page = write_report_page(folder, output, emit=console.emit)
        console.files((page,))
        if opened:
            open_page(page)
