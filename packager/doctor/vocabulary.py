"""The vocabulary and how texts become its tokens, against what llama.cpp's converter writes for the base."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from packager.doctor.case import Patient, Reference
from packager.doctor.finding import Examined, Finding, Healthy, NotChecked, Organ, Severity
from packager.engines.llama_cpp import Embedded
from packager.errors import PackagerError
from packager.formats.fine_tuned import fine_tuned
from packager.formats.gguf import GgufArray, GgufHeader, MetadataEntry, Scalar
from packager.weights.probe_gguf import write_probe

_TOKENS, _TYPES, _MERGES, _SCORES, _PRE, _MODEL = (
    f"tokenizer.ggml.{name}" for name in ("tokens", "token_type", "merges", "scores", "pre", "model")
)
_SPECIAL = (3, 4)  # llama.h, LLAMA_TOKEN_TYPE_CONTROL and _USER_DEFINED: matched in a text before it is split
_MOST_RETYPED = 32
_UNUSED = 5  # a row without a token; converters give it a name of their own
# Texts that pre-tokenizers are known to split differently.
SAMPLES = (
    "The quick brown fox jumps over the lazy dog.", "It's we'll they're I'd you've", "IT'S WE'LL THEY'RE",
    "1234567890", "3.14159 and 2,718,281", "in 2024, v1.2.3-rc4", "12 345 6789 01", "٣١٤١٥ और १२३४५",
    "  two blanks", "tab\tand  blanks   before", "line\nline\n\nline\r\nline", "   \n   \n", "trailing   ",
    "def f(x):\n    return x ** 2  # square", "{\"key\": [1, 2, {\"a\": null}]}", "<div class=\"a\">&amp;</div>",
    "a_b-c.d/e\\f@g#h$i%j^k&l*m", "!!!??...", "x=1;y=2", "https://example.org/a?b=c&d=e#f",
    "你好，世界！今天是2024年。", "こんにちは、世界。カタカナ", "안녕하세요 세계", "Привет, мир!", "مرحبا بالعالم",
    "Ça va très bien, señor",
    "naïve café Zoë", "🙂👍🏽👨‍👩‍👧", "ﬁ ﬂ ½ ² ™", "CamelCaseWordsAndHTTPServer", "word" * 20, "AAAAaaaaBBBBbbbb",
)  # fmt: skip


def examine_vocabulary(patient: Patient, reference: Reference, scratch: Path) -> Examined:
    """Compare the number of tokens, their texts, and everything that decides how a text is split.

    Args:
        patient: The model.
        reference: What it should be.
        scratch: A folder for two files of a few megabytes.
    """
    expected = reference.metadata
    if patient.header is None:
        why = patient.no_file or "the header cannot be read"
        return Examined(not_checked=tuple(NotChecked(organ=o, why=why) for o in (Organ.VOCABULARY, Organ.TOKENIZER)))
    sizes = _sizes(patient.header, reference)
    if expected is None:
        organs = (Organ.TOKENIZER,) if sizes.findings else (Organ.VOCABULARY, Organ.TOKENIZER)
        return Examined(
            findings=sizes.findings, not_checked=tuple(NotChecked(organ=o, why=reference.no_metadata) for o in organs)
        )
    texts = Examined() if sizes.findings else _texts(patient, expected)
    if sizes.findings or texts.findings:
        why = "the vocabulary is at fault first"
        return sizes + texts + Examined(not_checked=(NotChecked(organ=Organ.TOKENIZER, why=why),))
    return sizes + texts + _tokenizer(patient, expected, scratch)


def _sizes(header: GgufHeader, reference: Reference) -> Examined:
    rows = next((tensor.shape[0] for tensor in header.tensors if tensor.name == "token_embd.weight"), None)
    listed = header.value(_TOKENS)
    tokens = listed.count if isinstance(listed, GgufArray) else 0
    wanted = fine_tuned(reference.base, reference.adapter).vocab_size
    if rows is not None and tokens != rows:
        what = f"{tokens} tokens and {rows} rows of the embedding; the base has {wanted} of both"
        cost = "the last rows have no token, or the last tokens no row: llama.cpp refuses to load it"
        return _one("VOCABULARY_ROWS", Organ.VOCABULARY, Severity.CRITICAL, what, cost)
    if tokens != wanted:
        what = f"{tokens} tokens; the base has {wanted}"
        cost = f"{abs(wanted - tokens)} tokens, added ones among them, are read as other tokens or as plain text"
        return _one("VOCABULARY_SIZE", Organ.VOCABULARY, Severity.CRITICAL, what, cost)
    return Examined(healthy=(Healthy(organ=Organ.VOCABULARY, what=f"{tokens} tokens and as many rows, as the base"),))


def _texts(patient: Patient, expected: tuple[MetadataEntry, ...]) -> Examined:
    if _same_array(patient, expected, _TOKENS):
        return Examined()
    found, wanted = _items(patient, _TOKENS), _expected_items(expected, _TOKENS)
    types = _expected_items(expected, _TYPES) or (0,) * len(wanted)
    triples = enumerate(zip(found, wanted, types, strict=False))
    other = [index for index, (a, b, kind) in triples if a != b and kind != _UNUSED]
    if not other and len(found) == len(wanted):
        return Examined()
    first = f"; the first is {other[0]}: {found[other[0]]!r}, the base has {wanted[other[0]]!r}" if other else ""
    count = len(other) + abs(len(found) - len(wanted))
    what = f"{count} of {len(wanted)} tokens have another text than the base's{first}"
    cost = "wherever one of them is meant, the model reads or writes something else"
    share = count / max(len(wanted), 1)
    return _one("TOKENS_DIFFER", Organ.VOCABULARY, Severity.CRITICAL, what, cost, share)


def _tokenizer(patient: Patient, expected: tuple[MetadataEntry, ...], scratch: Path) -> Examined:
    faults = [fault for check in _CHECKS if (fault := check(patient, expected)) is not None]
    if not faults:
        what = f"{patient.value(_MODEL)}, {patient.value(_PRE)}: merges, scores and types as the converter writes them"
        return Examined(healthy=(Healthy(organ=Organ.TOKENIZER, what=what),))
    samples = (*SAMPLES, *_retyped(patient, expected)[:_MOST_RETYPED])
    try:
        different = differing_samples(patient.header.metadata if patient.header else (), expected, samples, scratch)
    except PackagerError as error:
        cost, share = f"texts become other tokens than in training; how many: not measured ({error.message})", 1.0
    else:
        if not different:
            what = f"{faults[0][1]}; none of {len(samples)} sample texts becomes other tokens"
            return Examined(healthy=(Healthy(organ=Organ.TOKENIZER, what=what),))
        share = len(different) / len(samples)
        shown = min(different, key=len)
        cost = (
            f"{len(different)} of {len(samples)} sample texts become other tokens than in training, {shown!r} for one"
        )
    return Examined(
        findings=tuple(
            Finding(code=code, organ=Organ.TOKENIZER, severity=Severity.SERIOUS, what=what, cost=cost, affected=share)
            for code, what in faults
        )
    )


def differing_samples(
    one: tuple[MetadataEntry, ...], other: tuple[MetadataEntry, ...], samples: tuple[str, ...], scratch: Path
) -> tuple[str, ...]:
    """Give the sample texts that become other tokens with another vocabulary; llama.cpp tokenizes.

    Raises:
        ToolMissing: llama-cpp-python is not installed.
        InputInvalid: llama.cpp refuses one of them.
    """
    sides = []
    for name, metadata in (("one", one), ("other", other)):
        kept = tuple(entry for entry in metadata if entry.key.startswith("tokenizer."))
        probe = write_probe(scratch / f"{name}.gguf", kept, template=None, weights=False)
        with Embedded(probe.path, vocabulary_only=True) as engine:
            sides.append([engine.tokenize(text, add_special=False) for text in samples])
    return tuple(text for text, a, b in zip(samples, *sides, strict=True) if a != b)


_Fault = tuple[str, str]


def _pre(patient: Patient, expected: tuple[MetadataEntry, ...]) -> _Fault | None:
    for key, code, word in ((_MODEL, "TOKENIZER_MODEL", "tokenizer"), (_PRE, "PRE_TOKENIZER", "pre-tokenizer")):
        found, wanted = patient.value(key), _expected_value(expected, key)
        if found != wanted:
            return code, f"the {word} is {found or 'not named'}; the base's is {wanted or 'not named'}"
    return None


def _merges(patient: Patient, expected: tuple[MetadataEntry, ...]) -> _Fault | None:
    return _listed(patient, expected, _MERGES, "MERGES_DIFFER", "merges")


def _scores(patient: Patient, expected: tuple[MetadataEntry, ...]) -> _Fault | None:
    return _listed(patient, expected, _SCORES, "SCORES_DIFFER", "scores")


def _listed(patient: Patient, expected: tuple[MetadataEntry, ...], key: str, code: str, word: str) -> _Fault | None:
    if _same_array(patient, expected, key):
        return None
    found, wanted = _items(patient, key), _expected_items(expected, key)
    other = [index for index, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b]
    count = len(other) + abs(len(found) - len(wanted))
    first = f", the first {found[other[0]]!r} where the base has {wanted[other[0]]!r}" if other else ""
    return code, f"{count} of {len(wanted)} {word} differ from the base's{first}"


def _types(patient: Patient, expected: tuple[MetadataEntry, ...]) -> _Fault | None:
    other = _retyped(patient, expected)
    return (
        ("TOKEN_TYPES", f"{len(other)} tokens have another type than the base's, {other[0]!r} for one")
        if other
        else None
    )


def _retyped(patient: Patient, expected: tuple[MetadataEntry, ...]) -> tuple[str, ...]:
    """Give the text of every token that is special on one side alone."""
    if _same_array(patient, expected, _TYPES):
        return ()
    rows = zip(_items(patient, _TYPES), _expected_items(expected, _TYPES), _items(patient, _TOKENS), strict=False)
    return tuple(str(token) for a, b, token in rows if a != b and (a in _SPECIAL or b in _SPECIAL))


_CHECKS: tuple[Callable[[Patient, tuple[MetadataEntry, ...]], _Fault | None], ...] = (_pre, _merges, _scores, _types)


def _same_array(patient: Patient, expected: tuple[MetadataEntry, ...], key: str) -> bool:
    """Whether both have the same array, compared as packed bytes: unpacking a vocabulary takes long."""
    found = patient.header.value(key) if patient.header is not None else None
    return found == next((entry.value for entry in expected if entry.key == key), None)


def _items(patient: Patient, key: str) -> tuple[Scalar, ...]:
    value = patient.header.value(key) if patient.header is not None else None
    return value.items() if isinstance(value, GgufArray) else ()


def _expected_items(expected: tuple[MetadataEntry, ...], key: str) -> tuple[Scalar, ...]:
    value = next((entry.value for entry in expected if entry.key == key), None)
    return value.items() if isinstance(value, GgufArray) else ()


def _expected_value(expected: tuple[MetadataEntry, ...], key: str) -> Scalar | None:
    value = next((entry.value for entry in expected if entry.key == key), None)
    return value if isinstance(value, str | int | float) else None


def _one(code: str, organ: Organ, severity: Severity, what: str, cost: str, affected: float = 1.0) -> Examined:
    found = Finding(code=code, organ=organ, severity=severity, what=what, cost=cost, affected=affected)
    return Examined(findings=(found,))
