from __future__ import annotations

import re
import string
from dataclasses import replace

import pytest
from markupsafe import Markup

from packager.artifacts import Outcome
from packager.evidence import Part, Stage
from packager.parity.tokenizer import YOUR_DATA, class_names
from packager.report_page.page import render_page
from packager.report_page.words import both, load_words, named, verbatim
from tests.report_page import sample
from tests.report_page.reading import read

WORDS = load_words()
# Names and signs that Chinese writers leave as they are.
SAME = {"llama.cpp", "Ollama", "top-1", "99 % KL", "RMS Δp", "token", "f16 GGUF"}
NAMES = {"engine", "subject", "stage", "check", "class", "part"}
CHINESE = re.compile("[\u4e00-\u9fff]")


@pytest.mark.parametrize("key", WORDS)
def test_every_sentence_is_in_both_languages(key: str) -> None:
    words = WORDS[key]
    assert not CHINESE.search(words.en)
    assert CHINESE.search(words.zh) or (words.zh == words.en and words.en in SAME) or words.zh == "token id"
    assert fields(words.en) == fields(words.zh)


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_every_sentence_is_shown_somewhere() -> None:
    """No sentence is left over from an earlier page; names of checks and classes depend on what was compared."""
    shown = " ".join(read(render_page(report)).by_id("page").text("zh") for report in reports())
    for key, words in WORDS.items():
        if key.partition(".")[0] not in NAMES and key != "page.window":
            parts = [part for part, *_ in string.Formatter().parse(" ".join(words.zh.split()))]
            assert re.search(".*?".join(map(re.escape, parts)), shown), key


def reports() -> list[sample.Report]:
    failed, nothing = sample.failed_report(), sample.old_report()
    blameless = replace(failed.evidence, blame=replace(failed.evidence.blame, findings=()), subject=None)  # type: ignore[type-var]
    lost = [replace(check, outcome=Outcome.FAILED) for check in failed.verdict.checks]
    several = [
        replace(check, outcome=Outcome.NOT_CHECKED, detail=f"reason {place}")
        for place, check in enumerate(failed.verdict.checks)
    ]
    short = replace(failed.evidence.answers[0], text=sample.REFERENCE + " And more.", common_characters=999)
    subject = replace(sample.subject(), pins=(), adapter=None)
    return [
        sample.full_report(),
        failed,
        nothing,
        replace(failed, evidence=blameless),
        replace(nothing, verdict=replace(nothing.verdict, checks=tuple(lost))),
        replace(nothing, verdict=replace(nothing.verdict, checks=tuple(several))),
        replace(failed, evidence=replace(failed.evidence, answers=(short,), subject=subject)),
    ]


@pytest.mark.parametrize(
    ("section", "names"),
    [
        pytest.param("stage", [stage.value for stage in Stage], id="stages"),
        pytest.param("part", [part.value for part in Part], id="parts"),
        pytest.param("class", [*class_names(), YOUR_DATA], id="classes of characters"),
        pytest.param("check", sorted({check.name for check in sample.full_report().verdict.checks}), id="checks"),
    ],
)
def test_names_of_the_program_are_translated(section: str, names: list[str]) -> None:
    assert {f"{section}.{name}" for name in names} <= WORDS.keys()


def test_values_are_escaped_and_made_visible_and_markup_is_kept() -> None:
    shown = both("verdict.blame", stage="<b>\x00\u202e")
    assert shown.count("&lt;b&gt;⟨U+0000⟩⟨U+202E⟩") == 2
    assert "<b>" not in shown
    assert both("verdict.blame", stage=Markup("<i>x</i>")).count("<i>x</i>") == 2


def test_a_name_that_nobody_translated_is_shown_as_it_is() -> None:
    assert named("check", "a <new> one") == '<bdi lang="en">a &lt;new&gt; one</bdi>' == verbatim("a <new> one")


def test_a_sentence_that_is_not_there_is_a_mistake_of_ours() -> None:
    with pytest.raises(KeyError):
        both("verdict.nonsense")
    with pytest.raises(KeyError):
        both("verdict.blame")
