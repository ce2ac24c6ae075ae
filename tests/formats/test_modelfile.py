from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packager import catalog
from packager.artifacts import Modelfile, OllamaParameters
from packager.errors import InputInvalid
from packager.formats.modelfile import PLAIN_SKELETON, parse_modelfile, render_modelfile
from packager.formats.modelfile_parser import dropped_characters, parse_commands

DEFAULT = catalog.modelfile_skeleton("default").text


def modelfile(
    *, gguf: str = "m.gguf", stop: tuple[str, ...] = (), license_text: str | None = None, **parameters: float | int
) -> Modelfile:
    made = OllamaParameters(stop=stop, **parameters)  # type: ignore[arg-type]
    return Modelfile(gguf=gguf, parameters=made, license_text=license_text)


carried = st.text(
    st.characters(exclude_categories=("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"), include_characters=' \t\n"'),
    max_size=30,
)
numbers = st.floats(allow_nan=False, allow_infinity=False, width=32)


@given(
    st.builds(
        Modelfile,
        gguf=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,30}\.gguf", fullmatch=True),
        parameters=st.builds(
            OllamaParameters,
            stop=st.lists(carried.filter(lambda text: '"' not in text), max_size=3).map(tuple),
            num_ctx=st.none() | st.integers(1, 1 << 20),
            temperature=st.none() | numbers,
            top_k=st.none() | st.integers(-1, 1000),
            top_p=st.none() | numbers,
            min_p=st.none() | numbers,
            repeat_penalty=st.none() | numbers,
        ),
        license_text=st.none() | carried.filter(lambda text: '"' not in text),
    ),
    st.sampled_from([PLAIN_SKELETON, DEFAULT]),
)
def test_law_parse_of_render_is_the_value(value: Modelfile, skeleton: str) -> None:
    assert parse_modelfile(render_modelfile(value, skeleton)) == value


@given(
    carried.filter(lambda text: '"' not in text),
    st.sampled_from([PLAIN_SKELETON, catalog.named_skeleton("legacy").text]),
)
def test_law_holds_for_a_template(template: str, skeleton: str) -> None:
    value = Modelfile(gguf="m.gguf", parameters=OllamaParameters(), license_text=None, template=template)
    assert parse_modelfile(render_modelfile(value, skeleton)) == value


@given(stop=st.text(max_size=20), license_text=st.text(max_size=40))
def test_law_what_is_not_carried_is_said(stop: str, license_text: str) -> None:
    value = modelfile(stop=(stop,), license_text=license_text)
    text = render_modelfile(value)
    found = parse_modelfile(text)
    if found.parameters.stop != value.parameters.stop:
        assert found.parameters.stop == ()
        assert "# Not carried" in text
    if found.license_text != value.license_text:
        assert "# The licence below lacks" in text or "# Not carried" in text


@given(text=st.text(st.sampled_from('"\n aSYTEM#'), max_size=40))
def test_law_no_text_adds_an_instruction(text: str) -> None:
    rendered = render_modelfile(modelfile(stop=(text,), license_text=text))
    assert {command.name for command in parse_commands(rendered)} <= {"model", "stop", "license"}
    assert len(parse_commands(rendered)) <= 3


def test_default_skeleton_reads_like_this() -> None:
    value = modelfile(
        gguf="packy-Q8_0.gguf", stop=("<|im_end|>", "<|endoftext|>"), num_ctx=8192, temperature=0.7, top_k=20,
        top_p=0.8, repeat_penalty=1.05, license_text="Apache License\n\nVersion 2.0",
    )  # fmt: skip
    text = render_modelfile(value, DEFAULT)
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert lines == [
        "FROM ./packy-Q8_0.gguf",
        'PARAMETER stop "<|im_end|>"',
        'PARAMETER stop "<|endoftext|>"',
        "PARAMETER temperature 0.7",
        "PARAMETER top_k 20",
        "PARAMETER top_p 0.8",
        "PARAMETER repeat_penalty 1.05",
        "PARAMETER num_ctx 8192",
        'LICENSE """Apache License',
        'Version 2.0"""',
    ]
    assert "no TEMPLATE line on purpose" in text


def test_comments_without_their_instructions_go() -> None:
    text = render_modelfile(modelfile(), DEFAULT)
    assert "no TEMPLATE line on purpose" in text
    assert "Sampling" not in text
    assert "repetition_penalty" not in text
    assert "context" not in text
    only_penalty = render_modelfile(modelfile(repeat_penalty=1.1), DEFAULT)
    assert "last 64 tokens" in only_penalty
    assert "PARAMETER repeat_penalty 1.1" in only_penalty


@pytest.mark.parametrize(
    ("stop", "line"),
    [
        ("</s>", 'PARAMETER stop "</s>"'),
        (" ", 'PARAMETER stop " "'),
        ('say "', 'PARAMETER stop "say ""'),
        ("a\nb", 'PARAMETER stop """a\nb"""'),
        ("#", 'PARAMETER stop "#"'),
        ("", 'PARAMETER stop ""'),
        ("$stop", 'PARAMETER stop "$stop"'),
    ],
    ids=["plain", "blank", "quote", "two lines", "comment sign", "empty", "looks like a name"],
)
def test_stops_are_quoted(stop: str, line: str) -> None:
    text = render_modelfile(modelfile(stop=(stop,)))
    assert line in text
    assert parse_modelfile(text).parameters.stop == (stop,)


@pytest.mark.parametrize(
    ("license_text", "remark"),
    [
        ("wide\u3000blank", "# The licence below lacks the characters U+3000, which Ollama's parser drops."),
        ("form\ffeed\u00a0x", "# The licence below lacks the characters U+000C U+00A0, which Ollama's parser drops."),
    ],
    ids=["wide blank", "two kinds"],
)
def test_a_licence_loses_only_what_the_text_says(license_text: str, remark: str) -> None:
    text = render_modelfile(modelfile(license_text=license_text))
    assert remark in text.splitlines()
    lost = dropped_characters(license_text)
    assert parse_modelfile(text).license_text == "".join(c for c in license_text if c not in lost)


def test_a_licence_that_would_inject_an_instruction_is_left_out() -> None:
    value = modelfile(license_text='"x"\n"""\nSYSTEM injected\n"""')
    text = render_modelfile(value)
    assert "SYSTEM injected" not in text
    assert "# Not carried, because Ollama's parser would cut it: the licence." in text
    assert parse_modelfile(text).license_text is None


@pytest.mark.parametrize("name", ["a\u3000.gguf", "a\x1b.gguf", "a\u200d.gguf"], ids=["wide blank", "escape", "joiner"])
def test_a_file_name_that_no_modelfile_can_say_is_refused(name: str) -> None:
    with pytest.raises(InputInvalid, match="cannot name the file"):
        render_modelfile(modelfile(gguf=name))


@pytest.mark.parametrize("name", ["a\nFROM b", "a b .gguf ", 'a".gguf'], ids=["instruction", "blanks", "quote"])
def test_an_odd_file_name_is_quoted(name: str) -> None:
    assert parse_modelfile(render_modelfile(modelfile(gguf=name))).gguf == name


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=["nan", "inf", "-inf"])
def test_a_number_that_is_none_is_refused(value: float) -> None:
    with pytest.raises(InputInvalid, match="PARAMETER temperature cannot be"):
        render_modelfile(modelfile(temperature=value))


def test_an_unknown_name_in_a_skeleton_is_refused() -> None:
    with pytest.raises(InputInvalid, match=r"no value is called \$nonsense"):
        render_modelfile(modelfile(), "FROM $gguf\nPARAMETER seed $nonsense\n")


def test_fixed_lines_of_a_skeleton_stay() -> None:
    text = render_modelfile(modelfile(), "FROM $gguf\nPARAMETER top_k 20\n")
    assert parse_modelfile(text).parameters.top_k == 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FROM x\nTEMPLATE y\nTEMPLATE z\n", "template has no place"),
        ("FROM x\nSYSTEM y\n", "system has no place"),
        ("FROM x\nPARAMETER seed 1\n", "seed has no place"),
        ("FROM x\nLICENSE a\nLICENSE b\n", "license has no place"),
        ("FROM x\nPARAMETER num_ctx many\n", "num_ctx is 'many', expected a whole number"),
        ("FROM x\nPARAMETER num_ctx 1_0\n", "expected a whole number"),
        ("FROM x\nPARAMETER top_p high\n", "top_p is 'high', expected a number"),
        ("FROM x\nPARAMETER top_p nan\n", "expected a number"),
    ],
    ids=["second template", "system", "other parameter", "second licence", "no number", "underscore", "no real", "nan"],
)
def test_what_has_no_place_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(InputInvalid, match=message):
        parse_modelfile(text)


def test_the_last_of_two_values_wins_as_in_ollama() -> None:
    assert parse_modelfile("FROM x\nPARAMETER top_k 1\nPARAMETER top_k 2\n").parameters.top_k == 2


def test_stops_add_up_as_in_ollama() -> None:
    assert parse_modelfile("FROM x\nPARAMETER stop a\nPARAMETER stop b\n").parameters.stop == ("a", "b")
