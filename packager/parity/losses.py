"""What each engine loses of a template's conversations, in one plain line for each loss."""

from __future__ import annotations

from packager.artifacts import Outcome
from packager.parity.template_matrix import IGNORED, TemplateRow

_SENTENCES = {
    "THINKING": "reasoning of earlier answers is dropped",
    "NO_TOOLS": "no tools",
    "TOOLJSON": "declared tools are written as other JSON",
    "COLLATE": "messages of one role in a row are joined",
    "ROLES": "nothing holds for roles that do not alternate",
    "SYS_MERGE": "a system message is put into the user's",
    "CONTENT": "contents are taken as they are, the template changes them",
    "TRIM": "blanks at the edges of a content are another matter",
    "NFC": "decomposed characters become other tokens",
    "BOS_LOST": "the beginning-of-sequence token is lost",
    "EOS_ADDED": "tokens are put behind the prompt",
    "BOS_DUP": "the beginning-of-sequence token is doubled",
}


def stated_losses(rows: tuple[TemplateRow, ...]) -> tuple[str, ...]:
    """Give the losses of every engine that was asked, and first what the template itself leaves out.

    Worked example: `ollama: reasoning of earlier answers is dropped (THINKING): think-before-tool`.
    """
    ignored: dict[str, list[str]] = {}
    for cell in (cell for row in rows for cell in row.cells if cell.code == IGNORED):
        if cell.conversation not in ignored.setdefault(cell.detail, []):
            ignored[cell.detail].append(cell.conversation)
    said = [f"{detail}, so nothing is compared: {', '.join(names)}" for detail, names in ignored.items()]
    for row in rows:
        said += _losses(row)
    return tuple(said)


def _losses(row: TemplateRow) -> list[str]:
    by_code: dict[str, list[str]] = {}
    for cell in row.cells:
        if cell.outcome is Outcome.FAILED:
            for code in cell.code.split("+"):
                by_code.setdefault(code, []).append(cell.conversation)
    return [f"{row.engine}: {_sentence(code)}: {', '.join(names)}" for code, names in by_code.items()]


def _sentence(code: str) -> str:
    return f"{_SENTENCES.get(code, 'the prompt differs')} ({code})"
