"""The parser against Ollama's own: `goldens/modelfile/ollama-0.34.0.json` holds what `parser.ParseFile` gave for each text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packager.errors import InputInvalid
from packager.formats.modelfile_parser import Command, dropped_characters, parse_commands

GOLDENS = Path(__file__).parents[1] / "goldens" / "modelfile" / "ollama-0.34.0.json"
ROWS: list[dict[str, Any]] = json.loads(GOLDENS.read_text())


@pytest.mark.parametrize("row", ROWS, ids=[f"{number}" for number, _ in enumerate(ROWS)])
def test_every_text_is_read_as_ollama_reads_it(row: dict[str, Any]) -> None:
    if row["commands"] is None:
        with pytest.raises(InputInvalid, match=r"^Modelfile"):
            parse_commands(row["text"])
        return
    expected = tuple(Command(name=name, args=args) for name, args in row["commands"])
    assert parse_commands(row["text"]) == expected


def test_goldens_hold_texts_that_ollama_takes_and_texts_it_refuses() -> None:
    taken = sum(row["commands"] is not None for row in ROWS)
    assert taken > 50
    assert len(ROWS) - taken > 50


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FROM x\nFOO y\n", r"Modelfile, line 2: command must be one of from, "),
        ("FROM x\n\nMESSAGE tool hi\n", r"line 3: message role must be one of"),
        ("FROM x\nPARAMETER st-op y\n", r"line 2: unexpected '-' after 'st'"),
        ('FROM x\nLICENSE "open\n', "a quoted value does not end"),
        ("FROM x\nPARAMETER", "ends in the middle of 'PARAMETER'"),
        ("PARAMETER stop x\n", "no FROM line"),
        ("", "no FROM line"),
    ],
    ids=["command", "role", "parameter name", "open quote", "cut off", "no from", "empty"],
)
def test_what_ollama_refuses_is_refused_with_the_line(text: str, message: str) -> None:
    with pytest.raises(InputInvalid, match=message) as caught:
        parse_commands(text)
    assert caught.value.exit_code == 3


@given(st.text(max_size=60))
def test_any_text_is_either_read_or_refused(text: str) -> None:
    try:
        commands = parse_commands("FROM x\n" + text)
    except InputInvalid:
        return
    assert commands[0].name == "model"
    assert all(character.isprintable() or character in "\t\r\n" for command in commands for character in command.args)


@pytest.mark.parametrize(
    ("text", "dropped"),
    [
        ("plain text\n\ttab", ()),
        ("中文\u3000全角", ("\u3000",)),
        ("a\u00a0b\u00adc\u00a0", ("\u00a0", "\u00ad")),
        ("👨\u200d👩", ("\u200d",)),
        ("\ufeff\x1b\x0c\u2028\ue000", ("\ufeff", "\x1b", "\x0c", "\u2028", "\ue000")),
    ],
    ids=["none", "wide blank", "no-break blank and soft hyphen", "joiner", "others"],
)
def test_dropped_characters_are_those_that_ollama_drops(text: str, dropped: tuple[str, ...]) -> None:
    assert dropped_characters(text) == dropped
    read = parse_commands(f'FROM x\nSYSTEM """-{text}-"""\n')[1].args
    assert read == "-" + "".join(character for character in text if character not in dropped) + "-"
