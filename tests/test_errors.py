from __future__ import annotations

import inspect

import pytest

from packager import errors
from packager.errors import InputInvalid, NoSpace, PackagerError, PlanRefused, UnsafeInput

CLASSES = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, PackagerError)]

# The table of the manual, whole.
EXIT_CODES = {
    "PackagerError": 1,
    "Usage": 2,
    "InputInvalid": 3,
    "UnsafeInput": 4,
    "IntegrityMismatch": 6,
    "NoSpace": 7,
    "Locked": 8,
    "ToolMissing": 9,
    "OllamaFailed": 10,
    "HubFailed": 11,
    "Unsupported": 12,
}


def test_every_class_has_its_documented_exit_code() -> None:
    assert {kind.__name__: kind.exit_code for kind in CLASSES if kind is not PlanRefused} == EXIT_CODES


def test_codes_without_a_class() -> None:
    assert (errors.VERIFICATION_FAILED, errors.INTERRUPTED, errors.TERMINATED) == (5, 130, 143)
    assert errors.VERIFICATION_FAILED not in EXIT_CODES.values()


def test_no_two_classes_share_a_code() -> None:
    assert len(set(EXIT_CODES.values())) == len(EXIT_CODES)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_class_is_described_by_itself(kind: type[PackagerError]) -> None:
    text = kind.__doc__ or ""
    assert text.split("\n")[0].endswith(".")
    assert all(text != (other.__doc__ or "") for other in CLASSES if other is not kind)


def test_an_error_carries_cause_and_hint() -> None:
    error = InputInvalid("a: broken", hint="Mend it.")
    assert (str(error), error.message, error.hint) == ("a: broken", "a: broken", "Mend it.")
    assert InputInvalid("a").hint == ""


def test_a_refused_plan_keeps_every_problem_and_the_first_ones_code() -> None:
    problems = (UnsafeInput("first", hint="one"), NoSpace("second"))
    refused = PlanRefused(problems)
    assert (refused.message, refused.hint, refused.exit_code) == ("first", "one", 4)
    assert refused.problems == problems
    assert PlanRefused((NoSpace("x"),)).exit_code == 7
    assert PackagerError.exit_code == 1  # the class itself is not touched
