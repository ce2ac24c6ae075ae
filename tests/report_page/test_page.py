from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from pathlib import Path

import pytest

from packager.codec import decode, encode
from packager.errors import InputInvalid
from packager.report_page.page import PAGE_NAME, render_page, write_page
from tests.report_page import sample
from tests.report_page.hostile import TEXTS, hostile_report
from tests.report_page.reading import Element, read

REPORTS = {"full": sample.full_report, "failed": sample.failed_report, "old": sample.old_report}
REPORTS["hostile"] = hostile_report
SECTIONS = ["files", "checks", "prompts", "tokenizer", "distance", "positions", "tensors", "answers", "provenance"]
WORDS = re.compile(r"[A-Za-z]{2,}(?:[ ,:;]+[A-Za-z]{2,}){2,}")


@pytest.fixture(scope="module", params=REPORTS)
def page(request: pytest.FixtureRequest) -> Element:
    return read(render_page(REPORTS[request.param]()))


def marked(element: Element) -> bool:
    """Whether a text is marked as of another language than the page, or of none."""
    return any("lang" in e.attributes for e in element.path() if e.tag != "html")


class TestEveryPage:
    def test_sections_stand_in_order_and_are_linked(self, page: Element) -> None:
        assert [section.attributes["id"] for section in page.all("section")] == SECTIONS
        assert [link.attributes["href"] for link in page.all("nav")[0].all("a")] == [f"#{name}" for name in SECTIONS]
        assert [heading.tag for heading in page.all("*") if heading.tag in ("h1", "h2")] == ["h1", *["h2"] * 9]

    def test_ids_are_there_once_and_what_points_to_one_finds_it(self, page: Element) -> None:
        ids = [found.attributes["id"] for found in page.all("*") if "id" in found.attributes]
        assert len(ids) == len(set(ids))
        assert {found.attributes.get("aria-labelledby", ids[0]) for found in page.all("*")} <= set(ids)

    def test_tables_have_captions_and_headings_with_a_scope(self, page: Element) -> None:
        assert page.all("table")
        for table in page.all("table"):
            assert len(table.all("caption")) == 1
            assert all("scope" in cell.attributes for cell in table.all("th"))
            assert table.parent is not None
            assert table.parent.attributes["tabindex"] == "0"

    def test_plots_have_a_name_and_a_description_in_both_languages(self, page: Element) -> None:
        for plot in page.all("svg"):
            assert plot.attributes["role"] == "img"
            for tag in ("title", "desc"):
                languages = [e.attributes["lang"] for e in plot.children if isinstance(e, Element) and e.tag == tag]
                assert languages == ["en", "zh-Hans"]

    def test_it_loads_nothing_and_runs_only_its_own_script(self, page: Element) -> None:
        everything = page.all("*")
        assert {e.tag for e in everything} & {
            "link",
            "img",
            "iframe",
            "object",
            "embed",
            "video",
            "form",
            "base",
        } == set()
        assert not [name for e in everything for name in e.attributes if name in ("src", "srcset", "style", "action")]
        assert not [name for e in everything for name in e.attributes if name.startswith("on")]
        assert all(e.attributes["href"].startswith("#") for e in page.all("a"))
        [script] = page.all("script")
        [text] = script.children
        assert isinstance(text, str)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        policy = next(meta.attributes["content"] for meta in page.all("meta") if "http-equiv" in meta.attributes)
        assert policy.split("; ") == [
            "default-src 'none'",
            "style-src 'unsafe-inline'",
            f"script-src 'sha256-{digest}'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
        assert "url(" not in page.all("style")[0].children[0]
        assert "@import" not in page.all("style")[0].children[0]

    def test_a_chinese_reader_meets_no_english_sentence_of_ours(self, page: Element) -> None:
        """What report.json says is marked as English, what a model said as of no language."""
        for element, text in page.by_id("page").texts("zh"):
            ours = any(e.attributes.get("class") == "t" for e in element.path())
            if ours or not (marked(element) or "code" in [e.tag for e in element.path()]):
                assert not WORDS.search(text), text

    def test_an_english_reader_meets_no_chinese_of_ours(self, page: Element) -> None:
        for element, text in page.by_id("page").texts("en"):
            if not marked(element) or any(e.attributes.get("class") == "t" for e in element.path()):
                assert not re.search("[\u4e00-\u9fff]", text), text


@pytest.mark.parametrize("name", REPORTS)
def test_it_can_be_written_and_stays_under_a_megabyte(name: str, tmp_path: Path) -> None:
    path = write_page(render_page(REPORTS[name]()), tmp_path / PAGE_NAME)
    assert path.stat().st_size < 1_000_000


def test_equal_reports_give_equal_pages_wherever_their_files_are() -> None:
    report = sample.full_report()
    moved = replace(
        report, ggufs=tuple(replace(gguf, path=Path("/somewhere/else") / gguf.path) for gguf in report.ggufs)
    )
    assert render_page(report) == render_page(moved)
    assert "/somewhere" not in render_page(moved)
    assert render_page(decode(sample.Report, encode(report))) == render_page(report)


class TestVerdict:
    def says(self, report: sample.Report, language: str = "en") -> str:
        header = read(render_page(report)).all("header")[0]
        return next(part.text(language) for part in header.all("div") if part.attributes["class"] == "verdict")

    def test_passed(self) -> None:
        said = self.says(sample.full_report())
        assert said.startswith("Answers as the reference does: 28 checks passed, 1 not checked.")
        assert "Use q4_k_m (packy-1.5B-Q4_K_M.gguf, 105 MB): the smallest file whose checks passed." in said
        assert "Not checked: f16, Ollama, all checks (no Ollama answered)" in said

    def test_differs(self) -> None:
        said = self.says(sample.failed_report())
        assert said.startswith("Differs from the reference: 1 of 28 checks failed, 1 not checked.")
        assert "First failure: q4_k_m, llama.cpp, distribution: mean KL 1.7 nats, at most 0.35" in said
        assert "The first stage that differs is the quant (q4_k_m)" in said
        assert "worst tensor: blk.3.attn_q.weight (Q4_K), relative error 0.71 where 0.0" in said
        assert "Use q8_0" in said

    def test_in_chinese(self) -> None:
        said = self.says(sample.failed_report(), "zh")
        assert said.startswith("与参考不一致：28 项检查中有 1 项未通过，1 项未检查。")
        assert "mean KL 1.7 nats, at most 0.35" in said

    def test_nothing_checked_is_not_passed(self) -> None:
        report = sample.old_report()
        said = self.says(replace(report, verdict=replace(report.verdict, checks=())))
        assert said.startswith("Not checked: nothing was compared with the reference")
        assert "Use" not in said


def test_an_old_report_passes_nothing_that_it_does_not_know() -> None:
    page = read(render_page(sample.old_report()))
    for name in ("prompts", "tokenizer", "positions", "tensors", "answers"):
        said = page.by_id(name).text()
        assert "not checked" in said
        assert "This is no pass." in said
        assert "passed" not in said
    assert "0.0065" in page.by_id("distance").text()


class TestHostile:
    def test_no_text_became_an_element(self) -> None:
        tags = {element.tag for element in read(render_page(hostile_report())).all("*")}
        assert tags == {element.tag for element in read(render_page(sample.failed_report())).all("*")}

    def test_texts_are_there_as_texts(self) -> None:
        said = "".join(text for _, text in read(render_page(hostile_report())).texts())
        for text in TEXTS:
            if text.isprintable():
                assert text in said
        assert "⟨U+0000⟩⟨U+001B⟩[31m⟨U+0007⟩⟨U+009B⟩⟨U+000D⟩" in said
        assert "⟨U+202E⟩gnp.exe⟨U+2066⟩⟨U+2069⟩⟨U+200F⟩⟨U+200B⟩⟨U+FEFF⟩" in said
        assert "⟨U+D83D⟩ half" in said

    def test_nothing_that_cannot_be_seen_is_left(self) -> None:
        page = render_page(hostile_report())
        assert not re.search(
            "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]", page
        )

    def test_a_model_may_name_a_placeholder(self) -> None:
        report = sample.full_report()
        subject = replace(sample.subject(), name="{count} {name} {0}")
        page = render_page(replace(report, evidence=replace(report.evidence, subject=subject)))
        assert "Verification of {count} {name} {0}" in read(page).text()


def test_a_report_that_does_not_fit_itself_is_drawn_as_far_as_it_goes() -> None:
    """Lists of different lengths, as no packager writes them."""
    report = sample.full_report()
    short = replace(report.evidence.positions[0], kl=(0.1,), same_top=())
    page = render_page(replace(report, evidence=replace(report.evidence, positions=(short,))))
    assert read(page).by_id("positions").all("h3")


def test_a_page_has_to_go_somewhere(tmp_path: Path) -> None:
    with pytest.raises(InputInvalid, match="nowhere"):
        write_page("x", tmp_path / "nowhere" / PAGE_NAME)
