from __future__ import annotations

import json
from pathlib import Path

import pytest

from packager.artifacts import Check, Gguf, Measure, Outcome, Quant, Verdict
from packager.errors import InputInvalid
from packager.parity.gates import gates_from
from packager.parity.report import REPORT_NAME, Report, read_report, write_report


def report(folder: Path) -> Report:
    check = Check(
        subject="q8_0",
        engine="llama.cpp",
        name="distribution",
        outcome=Outcome.PASSED,
        detail="mean KL 0.01 nats · 你好",
        measures=(Measure(name="mean KL", value=0.01, unit="nats", limit=0.05),),
    )
    return Report(
        verdict=Verdict(checks=(check,), versions=("transformers 5.23.0", "ollama 0.34.0")),
        gates=gates_from((("q8_0.mean_kl", 0.05),)),
        ggufs=(Gguf(path=folder / "model-Q8_0.gguf", quant=Quant.Q8_0, sha256="a" * 64, size_bytes=7),),
    )


def test_what_was_written_is_read_back_with_names_for_paths(tmp_path: Path) -> None:
    written = report(tmp_path)
    path = write_report(written, tmp_path / REPORT_NAME)
    found = read_report(path)
    assert (found.verdict, found.gates) == (written.verdict, written.gates)
    assert [gguf.path for gguf in found.ggufs] == [Path("model-Q8_0.gguf")]


def test_nothing_of_this_machine_is_in_it(tmp_path: Path) -> None:
    text = write_report(report(tmp_path), tmp_path / REPORT_NAME).read_text(encoding="utf-8")
    assert str(tmp_path) not in text
    assert str(Path.home()) not in text
    assert "你好" in text


def test_equal_reports_have_equal_bytes_wherever_they_are(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        write_report(report(tmp_path / name), tmp_path / name / REPORT_NAME)
    assert (tmp_path / "one" / REPORT_NAME).read_bytes() == (tmp_path / "other" / REPORT_NAME).read_bytes()


def test_a_new_report_replaces_an_old_one_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / REPORT_NAME
    path.write_text("old")
    write_report(report(tmp_path), path)
    assert read_report(path).verdict.passed
    assert [entry.name for entry in tmp_path.iterdir()] == [REPORT_NAME]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param(None, "no such file", id="missing"),
        pytest.param("{", "not JSON", id="cut"),
        pytest.param("[]", "expected an object", id="another value"),
        pytest.param('{"verdict": {}}', "missing field", id="a field is missing"),
    ],
)
def test_a_report_that_cannot_be_read_is_named(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / REPORT_NAME
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputInvalid, match=words) as caught:
        read_report(path)
    assert str(path) in caught.value.message
    assert "packager verify" in caught.value.hint


def test_it_is_json_that_every_reader_takes(tmp_path: Path) -> None:
    path = write_report(report(tmp_path), tmp_path / REPORT_NAME)
    assert json.loads(path.read_text(encoding="utf-8"))["gates"]["q8_0"]["mean_kl"] == 0.05
