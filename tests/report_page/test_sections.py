from __future__ import annotations

import math
from dataclasses import replace

import pytest

from packager.artifacts import Outcome
from packager.evidence import AnswerText, Evidence, MatrixRow
from packager.report_page import sections
from tests.report_page import sample


def evidence(**fields: object) -> sample.Report:
    return replace(sample.old_report(), evidence=Evidence(**fields))  # type: ignore[arg-type]


def test_rows_that_were_asked_other_conversations_share_one_set_of_columns() -> None:
    full = sample.row("f16", "llama.cpp", "prompts")
    short = MatrixRow(subject="q8_0", engine="ollama", name="prompts", cells=full.cells[6:8])
    matrix = sections.matrix(evidence(matrix=(short, full)))
    assert matrix is not None
    assert matrix.groups == (("EXT", 6), ("CORE", 6))
    assert [cell is None for cell in matrix.rows[0][1]] == [False, False, *[True] * 10]
    assert all(cell is not None for cell in matrix.rows[1][1])


def test_what_differs_is_told_once_with_everybody_who_has_it() -> None:
    matrix = sections.matrix(sample.full_report())
    assert matrix is not None
    told = {cell.conversation: (cell.outcome, asked) for cell, asked in matrix.notes}
    everyone = ("f16", "q8_0", "q4_k_m")
    assert told["two-users"] == (
        Outcome.FAILED,
        ((("ollama", "prompts"), everyone), (("ollama", "token ids"), everyone)),
    )
    assert told["think-in-history"][0] is Outcome.NOT_CHECKED
    assert len(matrix.notes) == 2


def test_no_cells_are_no_matrix() -> None:
    assert sections.matrix(sample.old_report()) is None
    assert sections.matrix(evidence(matrix=(MatrixRow(subject="f16", engine="e", name="n", cells=()),))) is None


def test_classes_without_a_text_are_not_among_the_equal_ones() -> None:
    found = sections.tokenizer(sample.full_report())
    assert found is not None
    assert [kind.name for kind in found.differing] == ["decomposed accents"]
    assert [kind.name for kind in found.open] == ["your data"]
    assert (len(found.equal), found.texts) == (5, 2500)
    assert sections.tokenizer(sample.old_report()) is None


def test_every_file_has_a_mark_at_every_token() -> None:
    strips = sections.strips(sample.full_report())
    assert [strip.conversation for strip in strips] == list(sample.CORE)
    assert all(len(strip.lanes) == 6 for strip in strips)
    assert [text for text, _ in strips[0].tokens] == list(sample.TOKENS)
    assert all(len(marks) == 6 for _, marks in strips[0].tokens)


def test_other_tokens_are_another_strip() -> None:
    one = sample.positions(sample.Quant.F16, "llama.cpp", "user")
    other = replace(one, subject="q8_0", tokens=("Something", " else"), kl=(0.1, 0.2), same_top=(True, False))
    strips = sections.strips(evidence(positions=(one, other)))
    assert [len(strip.tokens) for strip in strips] == [32, 2]
    assert [mark.same_top for _, (mark,) in strips[1].tokens] == [True, False]


@pytest.mark.parametrize(
    ("kl", "shade"),
    [(0.0, 0), (9.9e-5, 0), (1e-4, 1), (0.005, 2), (0.05, 3), (0.99, 4), (1.0, 5), (30.0, 5), (math.nan, 5)],
    ids=str,
)
def test_a_shade_is_a_decade(kl: float, shade: int) -> None:
    assert sections.shade(kl) == shade


def test_equal_texts_stand_together_and_first() -> None:
    first = sections.side_by_side(sample.full_report())[0]
    assert [parting.equal for parting in first.partings] == [True, False, False]
    assert first.partings[0].speakers == (("f16", "llama.cpp"), ("f16", "ollama"))
    assert first.partings[1].rest == ""
    assert first.partings[1].expected.startswith(" It lies on")
    later = first.partings[2]
    assert later.common + later.rest == sample.REFERENCE.replace("Seine, and", "Seine in the north, and")
    assert (later.rest[:3], later.expected[:5]) == (" in", ", and")


def test_texts_part_where_the_comparison_says() -> None:
    answer = AnswerText(
        conversation="c", subject="f16", engine="e", reference="Paris.", text="Paris. Lyon.", common_characters=6
    )
    parting = sections.side_by_side(evidence(answers=(answer,)))[0].partings[0]
    assert (parting.common, parting.rest, parting.expected, parting.equal) == ("Paris.", " Lyon.", "", False)


def test_a_tensor_that_one_file_lacks_is_empty_there() -> None:
    one, two = sample.tensors(sample.Quant.F16), sample.tensors(sample.Quant.Q8_0)
    rows = sections.tensor_rows(evidence(tensors=(one, replace(two, tensors=two.tensors[1:]))))
    assert len(rows) == 340
    assert rows[0][0] == "token_embd.weight"
    assert rows[0][1] == (one.tensors[0], None)


@pytest.mark.parametrize(
    ("line", "file"),
    [
        (f"a b.json {'0' * 64} 12", sections.File(name="a b.json", sha256="0" * 64, size_bytes=12)),
        ("strange", sections.File(name="strange")),
        ("two words", sections.File(name="two words")),
        ("a b c", sections.File(name="a b c")),
    ],
    ids=["name with a blank", "one word", "two words", "no size"],
)
def test_inputs_are_taken_apart(line: str, file: sections.File) -> None:
    report = evidence(subject=replace(sample.subject(), inputs=(line,)))
    assert sections.inputs(report) == (file,)


def test_outputs_have_names_and_no_folders() -> None:
    report = sample.full_report()
    placed = tuple(replace(gguf, path=sample.Path("/somewhere") / gguf.path) for gguf in report.ggufs)
    assert sections.outputs(replace(report, ggufs=placed))[0].name == "packy-1.5B-F16.gguf"
