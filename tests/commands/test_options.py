"""The words of --quant and --gate: every word is read or named in the error."""

from __future__ import annotations

import math

import click
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from packager.artifacts import Quant
from packager.commands import options
from packager.commands.options import ByteSize, Gate, QuantList


def quants(text: str) -> tuple[str, ...]:
    return tuple(quant.value for quant in QuantList().convert(text, None, None))


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("f16", ("f16",)),
        ("q4_k_m,q8_0,f16", ("f16", "q8_0", "q4_k_m")),
        ("q4_k_m,f16", ("f16", "q4_k_m")),
        ("q8_0,q8_0,q8_0", ("q8_0",)),
        (" Q8_0 ,\tF16\n", ("f16", "q8_0")),
        ("IQ2_XXS,bf16,Q4_K", ("bf16", "q4_k_m", "iq2_xxs")),
    ],
    ids=["one", "reversed", "gap", "repeated", "case-and-blanks", "as llama-quantize spells them"],
)
def test_quants_come_most_exact_first_each_once(text: str, chosen: tuple[str, ...]) -> None:
    assert quants(text) == chosen


@settings(max_examples=60, deadline=None)
@given(words=st.lists(st.sampled_from(["f16", "q8_0", "q4_k_m"]), min_size=1, max_size=8), data=st.data())
def test_any_order_case_and_blanks_mean_the_same_set(words: list[str], data: st.DataObject) -> None:
    blanks = st.text(" \t", max_size=2)
    typed = [
        data.draw(blanks) + (word.upper() if data.draw(st.booleans()) else word) + data.draw(blanks) for word in words
    ]
    chosen = quants(",".join(typed))
    assert set(chosen) == set(words)
    assert list(chosen) == [word for word in ("f16", "q8_0", "q4_k_m") if word in chosen]
    assert quants(",".join(chosen)) == chosen


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "''"),
        ("f16,", "''"),
        (",f16", "''"),
        ("f16,,q8_0", "''"),
        ("q4_k_x", "'q4_k_x'"),
        ("f16, Q5_7 ,q8_0", "'Q5_7'"),
        ("f16 q8_0", "'f16 q8_0'"),
        ("f16;q8_0", "'f16;q8_0'"),
        ("all", "'all'"),
    ],
    ids=["empty", "comma-last", "comma-first", "two-commas", "unknown", "one-of-three", "blank", "semicolon", "all"],
)
def test_a_word_that_is_no_quant_is_named(text: str, word: str) -> None:
    with pytest.raises(click.BadParameter) as caught:
        quants(text)
    assert caught.value.message.startswith(f"{word} is not one of f32, f16, bf16, q8_0, q6_k, ")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("q4_k_m.mean_kl=0.5", ("q4_k_m.mean_kl", 0.5)),
        ("f16.top1 = 1", ("f16.top1", 1.0)),
        ("q8_0.first_kl=3e-4", ("q8_0.first_kl", 0.0003)),
        ("f16.top1=-1", ("f16.top1", -1.0)),
        ("nothing.such=2", ("nothing.such", 2.0)),
    ],
    ids=["plain", "blanks", "exponent", "negative", "judged-later"],
)
def test_a_gate_is_a_name_and_a_number(text: str, wanted: tuple[str, float]) -> None:
    assert Gate().convert(text, None, None) == wanted


@settings(max_examples=60, deadline=None)
@given(name=st.text("abcfkmq_.048", max_size=12), limit=st.floats(allow_nan=False))
def test_every_number_that_python_prints_comes_back(name: str, limit: float) -> None:
    key, value = Gate().convert(f" {name} = {limit!r} ", None, None)
    assert key == name
    assert value == limit
    assert math.copysign(1, value) == math.copysign(1, limit)


@pytest.mark.parametrize(
    "text",
    ["", "f16.top1", "f16.top1=", "f16.top1=high", "f16.top1=0,5", "f16.top1=1=2", "f16.top1==1", "f16.top1:0.5"],
    ids=["empty", "no-limit", "empty-limit", "word", "comma", "two-limits", "two-signs", "colon"],
)
def test_what_is_no_gate_is_shown(text: str) -> None:
    with pytest.raises(click.BadParameter) as caught:
        Gate().convert(text, None, None)
    assert caught.value.message == f"{text!r} is not of the form QUANT.MEASURE=LIMIT"


@click.command()
@options.quants
def show(quants: tuple[Quant, ...]) -> None:
    click.echo(",".join(quants))


def test_a_command_without_quants_gets_every_one() -> None:
    assert CliRunner().invoke(show, []).output == "f16,q8_0,q4_k_m\n"


def test_a_command_names_the_option_and_the_word() -> None:
    result = CliRunner().invoke(show, ["--quant", "q9"])
    assert result.exit_code == 2
    assert "Invalid value for '--quant': 'q9' is not one of f32, f16, bf16" in result.output


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("8GB", 8_000_000_000),
        ("8gb", 8_000_000_000),
        (" 500 MB ", 500_000_000),
        ("1.5g", 1_500_000_000),
        ("2TB", 2_000_000_000_000),
        ("12k", 12_000),
        ("77", 77),
        ("0", 0),
    ],
    ids=repr,
)
def test_a_size_is_in_powers_of_1000(text: str, count: int) -> None:
    assert ByteSize().convert(text, None, None) == count


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "8GiB", "8 PB", "1,5GB", "eight"], ids=repr)
def test_what_is_no_size_is_shown(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a size such as 8GB or 500MB") as caught:
        ByteSize().convert(text, None, None)
    assert repr(text) in caught.value.message
