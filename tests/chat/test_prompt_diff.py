from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from packager.chat.prompt_diff import prompt_diff


def test_every_line_is_as_python_writes_it() -> None:
    assert prompt_diff("<s>Hi \x1b[31m\nyou", "Hi\nyou", context_lines=1) == (
        "@@ -1,2 +1,2 @@", r"-<s>Hi \x1b[31m\n", r"+Hi\n", " you"
    )  # fmt: skip


def test_context_is_as_much_as_asked_for() -> None:
    one = "".join(f"{number}\n" for number in range(9))
    assert len(prompt_diff(one, one + "x", context_lines=1)) == 3
    assert len(prompt_diff(one, one + "x", context_lines=99)) == 11


@given(one=st.text(), other=st.text())
def test_nothing_is_said_of_equal_prompts_and_something_of_others(one: str, other: str) -> None:
    assert bool(prompt_diff(one, other, context_lines=1)) == (one != other)
    assert not any("\n" in line for line in prompt_diff(one, other, context_lines=1))
