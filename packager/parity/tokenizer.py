"""Tokenizer parity: the reference's ids against the file's own tokenizer, over random texts by class of character.

Equal prompts are not enough: the conversations of a proof are few, and a vocabulary that was converted wrongly, a changed
merge or another normalisation shows only on the characters it concerns. So every class is tried on its own, and a class that
differs is named with its cause where the cause was tried: a text that both sides split alike once it is composed (NFC) is one
that the reference composes and llama.cpp does not.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence

from packager.artifacts import Check, Outcome
from packager.evidence import CharacterClass
from packager.parity.judge import measure
from packager.seeded import Choices

TEXTS_PER_CLASS = 200
YOUR_DATA = "your data"
NFC = "NFC"
Encode = Callable[[str], tuple[int, ...]]

_BLANKS = " \t\n\r\u00a0\u3000"
_EMOJI = ("😀", "👍🏽", "👨‍👩‍👧", "🇫🇷", "❤️", "🏳️‍🌈", "✈", "🤖")
_MARKS = "\u0301\u0300\u0302\u0303\u0308\u030a\u0327\u0323"
# What a class is made of: words of its characters with a blank between them, or for the last three of these items.
_ALPHABETS: dict[str, Sequence[str]] = {
    "letters": [chr(c) for c in (*range(0x41, 0x5B), *range(0x61, 0x7B))],
    "digits": list("0123456789"),
    "punctuation": list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"),
    "blanks": [*_BLANKS, "a", "1"],
    "accents": [chr(c) for c in range(0xC0, 0x180) if chr(c).isalpha()],
    "decomposed accents": [f"{letter}{mark}" for letter in "aeioucnsAEO" for mark in _MARKS],
    "Cyrillic": [chr(c) for c in range(0x410, 0x450)],
    "Arabic": [chr(c) for c in range(0x627, 0x64B)],
    "Chinese": [chr(c) for c in range(0x4E00, 0x9FA5, 7)],
    "Japanese": [chr(c) for c in (*range(0x3041, 0x3097), *range(0x30A1, 0x30FB))],
    "Korean": [chr(c) for c in range(0xAC00, 0xD7A4, 11)],
    "emoji": _EMOJI,
}
_CODE = ("def ", "return", "{", "}", "();", "\n    ", "x_1", "==", "0x1F", '"', "//", "<div>", "\\n", "+=", "print(")
_MEANINGS = {
    NFC: "decomposed characters (typed on a Mac, or Vietnamese) become other tokens than in training: compose texts (NFC)",
    "": "such texts reach the model as other tokens than in training",
}


def random_texts(name: str, count: int, special: Sequence[str] = ()) -> tuple[str, ...]:
    """Give the random texts of a class; the same on every machine, because the generator is sha256.

    Args:
        name: A class; one of `class_names`.
        count: How many.
        special: The tokenizer's special tokens, for the class `special tokens`.

    Worked example:
        >>> random_texts("digits", 2) == random_texts("digits", 3)[:2]
        True
    """
    return tuple(_text(name, Choices(f"{name} {number}"), special) for number in range(count))


def class_names() -> tuple[str, ...]:
    """Give every class, in the order of reports; `special tokens` is the last."""
    return (*_ALPHABETS, "code", "mixed", "special tokens")


def compare_tokenizers(
    reference: Encode, engine: Encode, *, special: Sequence[str] = (), data: Sequence[str] = ()
) -> tuple[CharacterClass, ...]:
    """Tokenize the random texts of every class, and the user's own, on both sides.

    Args:
        reference: The ids of transformers' tokenizer, special tokens in the text recognised and none added.
        engine: The ids of the file's own tokenizer, likewise.
        special: Texts of special tokens; without any, that class is left out.
        data: The user's texts; without any, there is no class of them.
    """
    names = class_names() if special else class_names()[:-1]
    texts = {name: random_texts(name, TEXTS_PER_CLASS, special) for name in names}
    if data:
        texts[YOUR_DATA] = tuple(data)
    return tuple(_compared(name, tried, reference, engine) for name, tried in texts.items())


def tokenizer_check(classes: tuple[CharacterClass, ...], *, subject: str, engine: str) -> Check:
    """Make a line of the verdict: failed when a class differs for another reason than normalisation.

    Normalisation (NFC) is what llama.cpp leaves out for every model whose tokenizer has it: no build can mend it, so it is
    told and does not fail.
    """
    differing = [found for found in classes if found.differing]
    broken = [found for found in differing if found.code != NFC]
    total, equal = sum(c.texts for c in classes), sum(c.texts - c.differing for c in classes)
    detail = f"{equal} of {total} texts equal"
    for found in broken or differing:
        detail += f"; {found.name}: {found.differing} differ{f' ({found.code})' if found.code else ''}, {found.example}"
    return Check(
        subject=subject,
        engine=engine,
        name="tokenizer",
        outcome=Outcome.FAILED if broken else Outcome.PASSED,
        detail=detail,
        measures=(
            measure("equal texts", equal, "texts"),
            measure("texts that differ for no known reason", sum(c.differing for c in broken), "texts", 0.0),
        ),
    )


def _compared(name: str, texts: Sequence[str], reference: Encode, engine: Encode) -> CharacterClass:
    differing = [text for text in texts if reference(text) != engine(text)]
    # Composed, a text must be split alike on both sides, and as the reference splits the text itself.
    composed = [(text, unicodedata.normalize("NFC", text)) for text in differing]
    explained = all(reference(text) == reference(nfc) == engine(nfc) for text, nfc in composed)
    code = NFC if differing and explained else ""
    return CharacterClass(
        name=name,
        texts=len(texts),
        differing=len(differing),
        code=code,
        example=ascii(min(differing, key=len)[:60]) if differing else "",
        meaning=_MEANINGS[code] if differing else "",
    )


def _text(name: str, choices: Choices, special: Sequence[str]) -> str:
    if name == "special tokens":
        around = ("", " ", "\n", "a", "user", "你好", "assistant\n")
        return "".join(choices.one(special) + choices.one(around) for _ in range(1 + choices.below(4)))
    if name == "code":
        return "".join(choices.one(_CODE) for _ in range(1 + choices.below(12)))
    if name == "mixed":
        names = [*_ALPHABETS]
        return "".join(_word(_ALPHABETS[choices.one(names)], choices) for _ in range(1 + choices.below(6)))
    words = (_word(_ALPHABETS[name], choices) for _ in range(1 + choices.below(6)))
    return choices.one(("", " ")).join(words)


def _word(alphabet: Sequence[str], choices: Choices) -> str:
    return "".join(choices.one(alphabet) for _ in range(1 + choices.below(8)))
