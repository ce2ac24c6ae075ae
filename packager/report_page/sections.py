"""What stands behind the verdict, put together as the page shows it: by conversation, by tensor, by file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from packager.artifacts import Outcome
from packager.evidence import AnswerPositions, AnswerText, Cell, CharacterClass, MatrixRow, TensorError
from packager.parity.report import Report
from packager.report_page.figures import is_number, nats

T = TypeVar("T")
K = TypeVar("K")
_SHADES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # nats; six shades, a decade each
_EXCERPT = 24


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """Engines by conversations.

    Attributes:
        groups: Each group of conversations with the number of its columns.
        columns: `(conversation, group)`.
        rows: Each with its cells, None where the conversation was not put to it.
        notes: Each cell that is not equal, once, with the subjects of all rows that have it by `(engine, name)`.
    """

    groups: tuple[tuple[str, int], ...]
    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[MatrixRow, tuple[Cell | None, ...]], ...]
    notes: tuple[tuple[Cell, tuple[tuple[tuple[str, str], tuple[str, ...]], ...]], ...]


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """The classes of characters by what became of them, and how many texts the equal ones have."""

    equal: tuple[CharacterClass, ...]
    differing: tuple[CharacterClass, ...]
    open: tuple[CharacterClass, ...]
    texts: int


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One file's distance at one token: its shade from 0 to 5, its text, and whether the likeliest token is the same."""

    shade: int
    kl_text: str
    same_top: bool


@dataclass(frozen=True, kw_only=True)
class Strip:
    """One answer of the reference: `lanes` are `(subject, engine)`, each token has a mark for each of them."""

    conversation: str
    lanes: tuple[tuple[str, str], ...]
    tokens: tuple[tuple[str, tuple[Mark, ...]], ...]


@dataclass(frozen=True, kw_only=True)
class Parting:
    """One text that engines gave, and who gave it.

    Attributes:
        speakers: `(subject, engine)` of everyone who gave exactly this text.
        equal: Whether it is the reference's.
        common: What both texts begin with.
        rest: What follows in this one; empty where it ends there.
        at: How many characters are the same.
        expected: How the reference goes on, cut.
    """

    speakers: tuple[tuple[str, str], ...]
    equal: bool
    common: str
    rest: str
    at: int
    expected: str


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """One answer of the reference and every text that was given in its place, the equal one first."""

    conversation: str
    reference: str
    partings: tuple[Parting, ...]


@dataclass(frozen=True, kw_only=True)
class File:
    """One file that went in or came out; digest and size are empty where the line in report.json has another form."""

    name: str
    sha256: str = ""
    size_bytes: int | None = None


def matrix(report: Report) -> Matrix | None:
    """Put the cells of every row under one set of columns; None when there are no cells."""
    rows = report.evidence.matrix
    seen = dict.fromkeys((cell.conversation, cell.group) for row in rows for cell in row.cells)
    order = list(dict.fromkeys(group for _, group in seen))
    columns = tuple(sorted(seen, key=lambda column: order.index(column[1])))
    if not columns:
        return None
    unequal = [(cell, row) for row in rows for cell in row.cells if cell.outcome is not Outcome.PASSED]
    found = [(row, {(cell.conversation, cell.group): cell for cell in row.cells}) for row in rows]
    return Matrix(
        groups=tuple((group, sum(column[1] == group for column in columns)) for group in order),
        columns=columns,
        rows=tuple((row, tuple(cells.get(column) for column in columns)) for row, cells in found),
        notes=tuple(
            (
                cell,
                tuple(
                    (asked, tuple(row.subject for _, row in rows))
                    for asked, rows in _together(same, lambda found: (found[1].engine, found[1].name))
                ),
            )
            for cell, same in _together(unequal, lambda found: found[0])
        ),
    )


def tokenizer(report: Report) -> Tokenizer | None:
    """Sort the classes of characters; a class without a text is not checked. None when there are none."""
    classes = report.evidence.tokenizer
    if not classes:
        return None
    equal = tuple(found for found in classes if found.texts and not found.differing)
    return Tokenizer(
        equal=equal,
        differing=tuple(found for found in classes if found.differing),
        open=tuple(found for found in classes if not found.texts and not found.differing),
        texts=sum(found.texts for found in equal),
    )


def strips(report: Report) -> tuple[Strip, ...]:
    """Give one strip for each answer; a file that was compared on other tokens gets a strip of its own."""
    return tuple(
        Strip(
            conversation=conversation,
            lanes=tuple((lane.subject, lane.engine) for lane in lanes),
            tokens=tuple(zip(tokens, zip(*(_marks(lane) for lane in lanes), strict=False), strict=False)),
        )
        for (conversation, tokens), lanes in _together(
            report.evidence.positions, lambda found: (found.conversation, found.tokens)
        )
    )


def shade(kl: float) -> int:
    """Give the shade of a distance, 0 to 5: a decade each from 0.0001 nats on."""
    return sum(kl >= edge for edge in _SHADES) if is_number(kl) else len(_SHADES)


def side_by_side(report: Report) -> tuple[SideBySide, ...]:
    """Give each answer of the reference with what the engines said, equal texts together."""
    return tuple(
        SideBySide(conversation=conversation, reference=reference, partings=_partings(answers))
        for (conversation, reference), answers in _together(
            report.evidence.answers, lambda found: (found.conversation, found.reference)
        )
    )


def tensor_rows(report: Report) -> tuple[tuple[str, tuple[TensorError | None, ...]], ...]:
    """Give every tensor's name with its value in each file, in the order of the files that have it."""
    files = [{tensor.tensor: tensor for tensor in file.tensors} for file in report.evidence.tensors]
    names = dict.fromkeys(name for file in files for name in file)
    return tuple((name, tuple(file.get(name) for file in files)) for name in names)


def inputs(report: Report) -> tuple[File, ...]:
    """Take the lines `name sha256 size_bytes` apart; a name may have blanks in it."""
    lines = report.evidence.subject.inputs if report.evidence.subject else ()
    return tuple(_input(line) for line in lines)


def outputs(report: Report) -> tuple[File, ...]:
    """Give the files that came out."""
    return tuple(File(name=gguf.path.name, sha256=gguf.sha256, size_bytes=gguf.size_bytes) for gguf in report.ggufs)


def _marks(lane: AnswerPositions) -> tuple[Mark, ...]:
    pairs = zip(lane.kl, lane.same_top, strict=False)
    return tuple(Mark(shade=shade(kl), kl_text=nats(kl), same_top=same) for kl, same in pairs)


def _input(line: str) -> File:
    parts = line.rsplit(" ", 2)
    if len(parts) == 3 and parts[2].isdecimal():
        return File(name=parts[0], sha256=parts[1], size_bytes=int(parts[2]))
    return File(name=line)


def _partings(answers: tuple[AnswerText, ...]) -> tuple[Parting, ...]:
    found = []
    for (text, at), same in _together(answers, lambda answer: (answer.text, answer.common_characters)):
        reference = same[0].reference
        found.append(
            Parting(
                speakers=tuple((answer.subject, answer.engine) for answer in same),
                equal=text == reference,
                common=text[:at],
                rest=text[at:],
                at=at,
                expected=reference[at : at + _EXCERPT] + ("…" if len(reference) > at + _EXCERPT else ""),
            )
        )
    return tuple(sorted(found, key=lambda parting: not parting.equal))


def _together(items: Iterable[T], key: Callable[[T], K]) -> tuple[tuple[K, tuple[T, ...]], ...]:
    """Group items by a key, both in the order in which they first come."""
    groups: dict[K, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return tuple((found, tuple(group)) for found, group in groups.items())
