from __future__ import annotations

import json
from pathlib import Path

import pytest

from packager.artifacts import Check, Gguf, Outcome, Quant, Verdict
from packager.console import Console, sentence, size
from packager.events import Advanced, Noted, StageFinished, StageStarted


def check(outcome: Outcome, *, subject: str = "q8_0") -> Check:
    return Check(subject=subject, engine="llama.cpp", name="prompts", outcome=outcome, detail="6 of 6 [equal]")


def verdict(*outcomes: Outcome) -> Verdict:
    return Verdict(checks=tuple(check(outcome) for outcome in outcomes), versions=())


@pytest.mark.parametrize(
    ("outcomes", "words", "absent"),
    [
        ((Outcome.PASSED,), "as the reference[/] (1 checks passed)", "not checked"),
        ((Outcome.PASSED, Outcome.NOT_CHECKED), "as the reference[/] (1 checks passed, 1 not checked)", "differs"),
        ((Outcome.PASSED, Outcome.FAILED), "differs from the reference[/] (1 failed)", "as the reference"),
        ((Outcome.NOT_CHECKED,), "not checked", "as the reference"),
        ((), "not checked", "as the reference"),
    ],
    ids=["passed", "passed-and-not-checked", "failed", "only-not-checked", "nothing"],
)
def test_the_sentence_never_passes_what_was_not_checked(outcomes: tuple[Outcome, ...], words: str, absent: str) -> None:
    said = sentence(verdict(*outcomes))
    assert words in said
    assert absent not in said


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (269_060_552, "269 MB"), (15_200_000_000, "15.2 GB")],
    ids=str,
)
def test_sizes_are_in_powers_of_1000(count: int, text: str) -> None:
    assert size(count) == text


def test_plain_lines_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Console() as console:
        console.emit(StageStarted(stage="quantize", title="merge and write q8_0"))
        console.emit(Advanced(stage="quantize", done=5, total=10, unit="B"))
        console.emit(Noted(stage="quantize", text="a [bracketed] word"))
        console.emit(StageFinished(stage="quantize", seconds=1.25))
        console.emit(StageFinished(stage="verify", seconds=0.0, reused=True))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "quantize: merge and write q8_0",
        "  a [bracketed] word",
        "quantize: 1.2 s",
        "verify: done before, still valid",
    ]


def test_quiet_shows_warnings_and_results_only(capsys: pytest.CaptureFixture[str]) -> None:
    with Console(quiet=True) as console:
        console.emit(StageStarted(stage="quantize", title="merge"))
        console.emit(Noted(stage="quantize", text="for information"))
        console.emit(Noted(stage="quantize", text="take care", warning=True))
        console.line("the result")
    captured = capsys.readouterr()
    assert captured.out == "the result\n"
    assert captured.err == "  take care\n"


def test_json_is_all_there_is_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    gguf = Gguf(path=Path("a/b.gguf"), quant=Quant.Q8_0, sha256="0" * 64, size_bytes=3)
    with Console(as_json=True) as console:
        console.ggufs((gguf,))
    assert json.loads(capsys.readouterr().out) == [
        {"path": "a/b.gguf", "quant": "q8_0", "sha256": "0" * 64, "size_bytes": 3}
    ]


def test_a_verdict_shows_every_check_with_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    with Console() as console:
        console.verdict(verdict(Outcome.PASSED, Outcome.FAILED, Outcome.NOT_CHECKED))
    out = capsys.readouterr().out
    assert out.count("6 of 6 [equal]") == 4  # three rows, and the first failure again in the sentence
    for word in ("ok", "differs", "not checked"):
        assert word in out


def test_a_bar_on_a_terminal(tmp_path: Path) -> None:
    """A real terminal: the bar is drawn while a stage runs and is gone when it has ended."""
    import os
    import pty
    import subprocess
    import sys

    code = (
        "from packager.console import Console; from packager.events import *\n"
        "import time\n"
        "with Console() as c:\n"
        "    c.emit(StageStarted(stage='train', title='teach'))\n"
        "    c.emit(Advanced(stage='train', done=6, total=12, unit='step', detail='loss 0.5')); time.sleep(0.3)\n"
        "    c.emit(StageFinished(stage='train', seconds=1.0))\n"
    )
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    environment.pop("CI", None)
    child = subprocess.Popen([sys.executable, "-c", code], stderr=theirs, stdout=theirs, env=environment)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert child.wait(timeout=30) == 0
    assert b"6/12" in shown
    assert b"loss 0.5" in shown
