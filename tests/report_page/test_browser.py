"""The page in a real Chromium: nothing is loaded, nothing is wider than a phone, and both switches work."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from packager.report_page.page import PAGE_NAME, render_page
from tests.report_page import sample
from tests.report_page.hostile import hostile_report

REPORTS = {
    "full": sample.full_report,
    "failed": sample.failed_report,
    "old": sample.old_report,
    "hostile": hostile_report,
}
LANGUAGES = {"en": "English", "zh": "中文"}
UNFOLD = "for (const folded of document.querySelectorAll('details')) folded.open = true"
# Contrast of every text with what is behind it, by WCAG 2.2; `light-dark()` is resolved by the browser.
LOW_CONTRAST = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const color = rgb(getComputedStyle(e).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
  };
  const found = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement, style = getComputedStyle(e);
    if (!walker.currentNode.data.trim() || !e.getClientRects().length || e.closest("script, title, desc, .hidden")) continue;
    const [a, b] = [light(rgb(e.closest("svg") ? style.fill : style.color)), light(behind(e))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) found.add(`${e.tagName} ${e.className} ${walker.currentNode.data.slice(0, 20)} ${contrast.toFixed(2)}`);
  }
  return [...found];
}"""


@functools.cache
def text_of(name: str) -> str:
    return render_page(REPORTS[name]())


@contextmanager
def opened(browser: Browser, name: str, folder: Path, **options: object) -> Iterator[Page]:
    """Open the page of a report as a file; any request but that file, any message and any dialog fails."""
    path = folder / PAGE_NAME
    path.write_text(text_of(name), encoding="utf-8")
    context = browser.new_context(**options)  # type: ignore[arg-type]
    page, seen, said = context.new_page(), [], []
    context.on("request", lambda request: seen.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message) or dialog.dismiss())
    page.goto(path.as_uri())
    yield page
    context.close()
    assert set(seen) == {path.as_uri()}
    assert said == []


@pytest.mark.parametrize("name", REPORTS)
def test_a_phone_does_not_scroll_sideways(browser: Browser, tmp_path: Path, name: str) -> None:
    with opened(browser, name, tmp_path, viewport={"width": 390, "height": 844}, locale="en-GB") as page:
        for language in LANGUAGES.values():
            page.get_by_text(language, exact=True).click()
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.evaluate(UNFOLD)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(browser: Browser, tmp_path: Path, scheme: str) -> None:
    with opened(browser, "failed", tmp_path, color_scheme=scheme, locale="en-GB") as page:
        page.evaluate(UNFOLD)
        assert page.evaluate(LOW_CONTRAST) == []


@pytest.mark.parametrize("width", [390, 1280])
def test_it_can_be_photographed(browser: Browser, tmp_path: Path, width: int) -> None:
    with opened(browser, "failed", tmp_path, viewport={"width": width, "height": 1600}) as page:
        picture = page.screenshot()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(picture[16:20], "big") == width
    assert len(picture) > 50_000  # not an empty sheet


@pytest.mark.parametrize(
    ("locale", "sentence", "language"),
    [
        ("en-GB", "Answers as the reference does", "en"),
        ("zh-CN", "与参考一致", "zh-Hans"),
        ("zh-TW", "与参考一致", "zh-Hans"),
        ("de-DE", "Answers as the reference does", "en"),
    ],
)
def test_it_follows_the_browser_s_language(
    browser: Browser, tmp_path: Path, locale: str, sentence: str, language: str
) -> None:
    with opened(browser, "old", tmp_path, locale=locale) as page:
        assert sentence in page.locator(".verdict").inner_text()
        assert page.evaluate("document.documentElement.lang") == language


def test_both_languages_are_a_click_apart(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, "full", tmp_path, locale="en-GB") as page:
        headings = page.locator("h2").all_inner_texts()
        page.get_by_text("中文", exact=True).click()
        assert "与参考一致" in page.locator(".verdict").inner_text()
        assert page.title() == "packy-1.5B：packager 验证报告"
        assert set(headings).isdisjoint(page.locator("h2").all_inner_texts())
        expect(page.get_by_role("img", name="平均 KL 与文件大小")).to_have_count(1)
        page.get_by_text("English", exact=True).click()
        assert page.locator("h2").all_inner_texts() == headings
        expect(page.get_by_role("img", name="Mean KL against file size")).to_have_count(1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_themes_are_a_click_apart(browser: Browser, tmp_path: Path, scheme: str) -> None:
    def paper(page: Page) -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    with opened(browser, "old", tmp_path, color_scheme=scheme, locale="en-GB") as page:
        first = paper(page)
        page.get_by_text("dark" if scheme == "light" else "light", exact=True).click()
        assert paper(page) != first
        page.get_by_text("auto", exact=True).click()
        assert paper(page) == first


def test_the_switches_work_from_the_keyboard(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, "old", tmp_path, locale="en-GB") as page:
        page.keyboard.press("Tab")
        page.keyboard.press("ArrowRight")
        assert "与参考一致" in page.locator(".verdict").inner_text()


def test_without_scripts_it_is_english_and_both_switches_work(browser: Browser, tmp_path: Path) -> None:
    options = {"java_script_enabled": False, "locale": "zh-CN", "color_scheme": "light"}
    with opened(browser, "full", tmp_path, **options) as page:
        verdict = page.locator(".verdict")
        assert "Answers as the reference does" in verdict.inner_text()
        assert "与参考一致" not in verdict.inner_text()
        page.get_by_text("中文", exact=True).click()
        assert "与参考一致" in verdict.inner_text()
        before = page.screenshot()
        page.get_by_text("深色", exact=True).click()
        assert page.screenshot() != before


def test_paper_gets_no_switches_and_no_dark_theme(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, "full", tmp_path, color_scheme="dark", locale="en-GB") as page:
        page.emulate_media(media="print", color_scheme="dark")
        assert not page.locator("fieldset").first.is_visible()
        assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "light"
        assert page.pdf(format="A4")[:5] == b"%PDF-"


def test_hostile_texts_do_nothing(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, "hostile", tmp_path, locale="en-GB") as page:
        assert "taken" not in page.title()[:5]
        assert page.locator("img, a:not([href^='#']), script").count() == 1
        assert "<script>document.title = 'taken'</script>" in page.locator("main").inner_text()


def test_its_policy_stops_what_escaping_would_have_missed(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / PAGE_NAME
    planted = "<script>document.title = 'taken'</script><img src='https://127.0.0.1:9/x' onerror='document.title = 1'>"
    path.write_text(text_of("old").replace("</main>", f"{planted}</main>"), encoding="utf-8")
    page = browser.new_page(locale="en-GB")
    seen, said = [], []
    page.on("requestfinished", lambda request: seen.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.goto(path.as_uri())
    assert page.title() == "packy-1.5B-F16: packager's report"
    assert seen == [path.as_uri()]
    assert sum("Content Security Policy" in text for text in said) >= 3
    page.close()
