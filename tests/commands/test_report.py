"""`packager report` as a user runs it, and the page that a build folder gets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from packager.errors import InputInvalid
from packager.events import Event, Noted, StageFinished
from packager.parity.report import REPORT_NAME, write_report
from packager.pipeline import write_page_once
from packager.report_page.page import PAGE_NAME, render_page
from packager.workspace import Workspace
from tests.report_page import sample
from tests.run_packager import error_lines, run_packager
from tests.test_light_core import without_heavy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a report.json and nothing else."""
    folder = tmp_path / "out"
    folder.mkdir()
    write_report(sample.old_report(), folder / REPORT_NAME)
    return folder


def test_the_page_of_a_folder(folder: Path) -> None:
    done = run_packager("report", folder)
    assert done.code == 0, done.err
    assert done.out.splitlines() == [str(folder / PAGE_NAME)]
    assert (folder / PAGE_NAME).read_text(encoding="utf-8") == render_page(sample.old_report())


def test_it_needs_nothing_of_the_build_extra(folder: Path) -> None:
    done = without_heavy(f"from packager.cli import main\nmain(['report', {str(folder)!r}, '-q'])")
    assert done.returncode == 0, done.stderr
    assert (folder / PAGE_NAME).is_file()


def test_another_place(folder: Path, tmp_path: Path) -> None:
    done = run_packager("report", folder, "-o", tmp_path / "page.html")
    assert done.code == 0, done.err
    assert (tmp_path / "page.html").stat().st_size > 10_000
    assert [path.name for path in folder.iterdir()] == [REPORT_NAME]


def test_it_is_opened_in_the_user_s_browser(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" >{tmp_path}/opened\n')
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", str(browser))
    done = run_packager("report", folder, "--open")
    assert done.code == 0, done.err
    assert (tmp_path / "opened").read_text() == (folder / PAGE_NAME).as_uri()


def test_without_a_browser_it_says_where_the_page_is(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    done = run_packager("report", folder, "--open")
    assert done.code == 9
    assert error_lines(done) == [
        f"error: {folder / PAGE_NAME}: no browser could be started",
        f"hint: Open {folder / PAGE_NAME} in one yourself.",
    ]
    assert (folder / PAGE_NAME).is_file()


BAD = {
    "no folder": (["nowhere"], "nowhere/report.json: no such file", "packager verify"),
    "no report": (["empty"], "empty/report.json: no such file", "packager verify"),
    "a file": (["broken/report.json"], "Not a directory", "Check the path"),
    "not JSON": (["broken"], "broken/report.json: not JSON", "packager verify"),
    "another JSON": (["other"], "other/report.json: missing field 'verdict'", ""),
    "foreign page": (["taken"], "taken/report.html: exists, and packager did not write it", "Move it away"),
    "no place": (["taken", "-o", "nowhere/page.html"], "nowhere/page.html", "Check the path"),
}


@pytest.mark.parametrize(("arguments", "cause", "hint"), BAD.values(), ids=BAD)
def test_bad_input(tmp_path: Path, arguments: list[str], cause: str, hint: str) -> None:
    for name, text in (("empty", None), ("broken", "{"), ("other", "{}")):
        (tmp_path / name).mkdir()
        if text is not None:
            (tmp_path / name / REPORT_NAME).write_text(text)
    (tmp_path / "taken").mkdir()
    write_report(sample.old_report(), tmp_path / "taken" / REPORT_NAME)
    (tmp_path / "taken" / PAGE_NAME).write_text("mine")
    done = run_packager("report", *arguments, cwd=tmp_path)
    assert done.code == 3, done.err
    lines = error_lines(done)
    assert cause in lines[0]
    assert hint in "".join(lines[1:])
    assert (tmp_path / "taken" / PAGE_NAME).read_text() == "mine"


class TestStage:
    """The page as a stage of a build folder."""

    def write(self, folder: Path, report: sample.Report) -> list[Event]:
        events: list[Event] = []
        with Workspace(folder, emit=events.append) as workspace:
            assert write_page_once(report, workspace) == folder / PAGE_NAME
        return events

    def test_the_same_report_is_written_once(self, tmp_path: Path) -> None:
        first = self.write(tmp_path, sample.old_report())
        again = self.write(tmp_path, sample.old_report())
        assert [e.reused for events in (first, again) for e in events if isinstance(e, StageFinished)] == [False, True]

    def test_another_report_replaces_the_page(self, tmp_path: Path) -> None:
        self.write(tmp_path, sample.old_report())
        other = replace(sample.old_report(), ggufs=sample.old_report().ggufs[:1])
        self.write(tmp_path, other)
        assert (tmp_path / PAGE_NAME).read_text(encoding="utf-8") == render_page(other)

    def test_a_changed_page_is_made_again(self, tmp_path: Path) -> None:
        self.write(tmp_path, sample.old_report())
        (tmp_path / PAGE_NAME).write_text("spoiled")
        events = self.write(tmp_path, sample.old_report())
        assert any(isinstance(event, Noted) and "making it again" in event.text for event in events)
        assert (tmp_path / PAGE_NAME).read_text(encoding="utf-8") == render_page(sample.old_report())

    def test_somebody_else_s_page_is_left(self, tmp_path: Path) -> None:
        (tmp_path / PAGE_NAME).write_text("mine")
        with pytest.raises(InputInvalid, match="packager did not write it"):
            self.write(tmp_path, sample.old_report())
        assert (tmp_path / PAGE_NAME).read_text() == "mine"
