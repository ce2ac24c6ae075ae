"""The tables of docs/bench.md from known results, and the committed page from the committed results."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.benchmark.process_tree import Cost
from scripts.benchmark.render import BEGIN, END, ratio, render, render_into
from scripts.benchmark.results import Round, add_result, read_results, this_machine
from tests.scripts.bench_sample import FOURFOLD, HALF, cost

DOCS = Path(__file__).parents[2] / "docs"


def cells(text: str, first: str) -> list[str]:
    """The row of a table that starts with a title, without the title."""
    rows = [line[2:-2].split(" | ") for line in text.splitlines() if line.startswith(f"| {first} |")]
    assert len(rows) == 1, text
    return [cell.strip() for cell in rows[0][1:]]


def test_a_side_is_the_medians_of_its_runs() -> None:
    text = render((HALF,))
    assert cells(text, "usual chain") == [
        "50.0 s", "0.25", "100.0 s", "4.00 GB", "6.00 GB", "8.00 GB", "2.00 GB", "12.00 GB", "16.00 GB",
    ]  # fmt: skip
    assert cells(text, "packager") == [
        "12.0 s", "1.00", "24.0 s", "1.00 GB", "1.50 GB", "2.00 GB", "0.50 GB", "3.00 GB", "4.00 GB",
    ]  # fmt: skip


def test_a_ratio_is_taken_within_a_round() -> None:
    """0.25, 0.4 and 0.2 of the chain; 1.25, 2 and 1.2 of the floor. The ratios of the medians would be 0.24 and 1.2."""

    def chain(run: Round) -> float | None:
        return run.chain.seconds if run.chain else None

    assert ratio(HALF, chain) == pytest.approx(0.25)
    assert ratio(HALF, lambda run: run.floor.seconds) == pytest.approx(1.25)
    assert cells(render((HALF,)), "kernels alone, from memory")[:3] == ["10.0 s", "1.25", "20.0 s"]


def test_a_side_that_was_not_run_is_not_measured() -> None:
    assert cells(render((HALF,)), "LLaMA-Factory + llama.cpp")[0] == "not measured"
    without = tuple(replace(run, chain=None) for run in HALF.rounds)
    assert cells(render((replace(HALF, rounds=without),)), "usual chain")[0] == "not measured"


def test_the_plan_is_compared_with_what_was_measured() -> None:
    said = "said 1.20 GB of memory (-20% of the measured 1.50 GB) and 4.40 GB of disk (+10% of the measured 4.00 GB)"
    assert said in render((HALF,))


def test_growth_is_fitted_over_the_sizes() -> None:
    """The chain: 50 s and 200 s for four times the parameters. packager: 12 s and 48 s. Memory stays as it was."""
    text = render((HALF, FOURFOLD))
    growth = text[text.index("### Growth") :]
    assert cells(growth, "usual chain") == [
        "1.00",
        "0.0 s +100.0 s per billion",
        "0.00",
        "6.00 GB +0.00 GB per billion",
    ]
    assert cells(growth, "packager") == ["1.00", "0.0 s +24.0 s per billion", "0.00", "1.50 GB +0.00 GB per billion"]
    assert cells(growth, "LLaMA-Factory + llama.cpp") == ["", "", "", ""]
    assert cells(growth, "kernels alone, from memory") == ["1.00", "0.0 s +20.0 s per billion", "", ""]
    assert "packager takes 1.20 times as long as the kernels alone" in growth
    assert "### Growth" not in render((HALF,))


@pytest.mark.parametrize("equal", [True, False], ids=["the same bytes", "other bytes"])
def test_a_resumed_build_says_what_was_repeated(equal: bool) -> None:
    assert FOURFOLD.resumed is not None
    text = render((replace(FOURFOLD, resumed=replace(FOURFOLD.resumed, equal=equal)),))
    assert "Killed at 50% of the output" in text
    assert "0.50 GB of 6.00 GB were written twice" in text
    assert ("**other bytes than**" in text) is not equal


def test_the_machine_is_described_without_its_name() -> None:
    text = render((HALF, FOURFOLD))
    assert "Measured (0.5B, 2B) on Z80, 2 cores, 24.00 GB of memory, Linux z80, Python 3.11.0, torch 2." in text
    assert Path("/proc/sys/kernel/hostname").read_text().strip() not in repr(this_machine())


def test_two_machines_are_two_lines() -> None:
    text = render((HALF, replace(FOURFOLD, machine=replace(FOURFOLD.machine, cores=8))))
    assert "Measured (0.5B) on Z80, 2 cores" in text
    assert "Measured (2B) on Z80, 8 cores" in text


def test_results_come_back_from_their_file_by_size(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    assert read_results(path) == ()
    add_result(path, FOURFOLD)
    add_result(path, HALF)
    newer = replace(HALF, date="2026-01-03", rounds=(replace(HALF.rounds[0], llamafactory=cost(70, 5)),))
    assert add_result(path, newer) == (newer, FOURFOLD)
    assert read_results(path) == (newer, FOURFOLD)
    assert isinstance(read_results(path)[0].rounds[0].llamafactory, Cost)


def test_the_page_keeps_what_stands_around_the_tables(tmp_path: Path) -> None:
    page = tmp_path / "bench.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    render_into(page, (HALF,))
    text = page.read_text()
    assert text == f"before\n{BEGIN}\n\n{render((HALF,))}\n{END}\nafter\n"
    render_into(page, (HALF,))
    assert page.read_text() == text


def test_a_page_without_the_marks_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "bench.md"
    page.write_text("by hand")
    with pytest.raises(SystemExit, match=r"bench\.md"):
        render_into(page, (HALF,))
    assert page.read_text() == "by hand"


def test_the_committed_page_shows_the_committed_results(tmp_path: Path) -> None:
    page = tmp_path / "bench.md"
    page.write_bytes((DOCS / "bench.md").read_bytes())
    render_into(page, read_results(DOCS / "bench.json"))
    assert page.read_text() == (DOCS / "bench.md").read_text()


def test_the_committed_plot_is_of_the_committed_results() -> None:
    digest = hashlib.sha256((DOCS / "bench.json").read_bytes()).hexdigest()
    assert f"sha256:{digest}" in (DOCS / "bench.svg").read_text()
