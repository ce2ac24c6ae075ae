from __future__ import annotations

import math
import sys

import pytest

from packager.report_page import figures

NOT_NUMBERS = [math.nan, math.inf, -math.inf, sys.float_info.max]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.0064524, "0.0065"),
        (0.0001, "0.0001"),
        (8.80699e-06, "8.8e−6"),
        (9.99e-05, "1.0e−4"),
        (1.7, "1.7"),
        (17.25, "17"),
        (123.4, "123"),
        (2.5e7, "2.5e07"),
    ],
    ids=str,
)
def test_nats_have_two_digits(value: float, text: str) -> None:
    assert figures.nats(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0 %"),
        (1.0, "100 %"),
        (0.985915, "98.6 %"),
        (0.99999, "99.9 %"),
        (0.00001, "0.1 %"),
        (0.75, "75.0 %"),
    ],
    ids=str,
)
def test_a_share_is_all_or_nothing_only_when_it_is(value: float, text: str) -> None:
    assert figures.share(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(1.00039, "1.0004"), (0.975971, "0.9760"), (31.26, "31"), (1234.0, "1230")], ids=str
)
def test_ratios(value: float, text: str) -> None:
    assert figures.ratio(value) == text


def test_a_small_share_keeps_its_digits() -> None:
    assert figures.percent(0.000846868) == "0.085 %"


@pytest.mark.parametrize("value", NOT_NUMBERS, ids=str)
@pytest.mark.parametrize("written", [figures.nats, figures.share, figures.ratio, figures.percent])
def test_what_is_no_number_says_so(written: type[str], value: float) -> None:
    assert written(value) == "NaN"
    assert not figures.is_number(value)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        pytest.param("a\x00b\x1b[31m\x7f", "a⟨U+0000⟩b⟨U+001B⟩[31m⟨U+007F⟩", id="control characters"),
        pytest.param("\u202eevil\u2066\u200f", "⟨U+202E⟩evil⟨U+2066⟩⟨U+200F⟩", id="bidi marks"),
        pytest.param("a\u200bb\ufeff\u00ad", "a⟨U+200B⟩b⟨U+FEFF⟩⟨U+00AD⟩", id="nothing to see"),
        pytest.param("\ud800\udfff", "⟨U+D800⟩⟨U+DFFF⟩", id="half characters"),
        pytest.param("a\rb\u2028c", "a⟨U+000D⟩b⟨U+2028⟩c", id="line ends that HTML changes"),
        pytest.param("one\n\ttwo  é 你好 😀 مرحبا", "one\n\ttwo  é 你好 😀 مرحبا", id="ordinary texts stay"),
    ],
)
def test_what_cannot_be_seen_is_written_out(text: str, seen: str) -> None:
    assert figures.seen(text) == seen
    assert seen.encode("utf-8").decode() == seen


@pytest.mark.parametrize(
    ("token", "text"),
    [(" the", " the"), (" ", "␣"), ("  ", "␣␣"), ("\n\n", "⏎⏎"), ("\t", "⇥"), ("\u202e", "⟨U+202E⟩"), ("", "")],
    ids=repr,
)
def test_every_token_can_be_seen(token: str, text: str) -> None:
    assert figures.token_text(token) == text
