"""Two prompts as a diff that a terminal shows whole: every line as Python writes it, so that blanks and controls are seen."""

from __future__ import annotations

import difflib


def prompt_diff(one: str, other: str, *, context_lines: int) -> tuple[str, ...]:
    r"""Give a unified diff of two prompts without its header; empty when they are equal.

    Worked example:
        >>> prompt_diff("<s>Hi\nyou", "Hi\nyou", context_lines=1)
        ('@@ -1,2 +1,2 @@', '-<s>Hi\\n', '+Hi\\n', ' you')
    """
    left, right = ([repr(line)[1:-1] for line in text.splitlines(keepends=True)] for text in (one, other))
    return tuple(difflib.unified_diff(left, right, lineterm="", n=context_lines))[2:]
