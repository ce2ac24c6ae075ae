"""What a verdict's checks say of engines, once it is known whether the files are right."""

from __future__ import annotations

import pytest

from packager.artifacts import Check, Outcome, Quant, Registered, Verdict
from packager.blame.engines import engine_finding, registered_finding, rounding_fault
from packager.engines.ollama_replies import StoredModel
from packager.evidence import Stage
from packager.quants import DEFAULT_QUANTS

PASSED, FAILED, OPEN = Outcome.PASSED, Outcome.FAILED, Outcome.NOT_CHECKED
F16, Q8_0, Q4_K_M = DEFAULT_QUANTS


def verdict(*checks: tuple[Quant, str, str, Outcome]) -> Verdict:
    return Verdict(
        checks=tuple(
            Check(subject=quant.value, engine=engine, name=name, outcome=outcome, detail=f"{quant.value} {name}")
            for quant, engine, name, outcome in checks
        ),
        versions=(),
    )


def embedded(*checks: tuple[Quant, str, Outcome]) -> Verdict:
    return verdict(*((quant, "llama.cpp", name, outcome) for quant, name, outcome in checks))


@pytest.mark.parametrize("name", ["distribution", "prompt distribution", "first token", "answers"])
def test_a_more_exact_file_that_is_near_puts_the_blame_on_the_type(name: str) -> None:
    found = embedded((F16, name, PASSED), (Q8_0, name, PASSED), (Q4_K_M, name, FAILED))
    fault = rounding_fault(found, Q4_K_M)
    assert fault == (
        "every tensor is as llama.cpp rounds it; q8_0 is near enough, so this type is too coarse; "
        f"{name}: q4_k_m {name}"
    )
    assert engine_finding(found, Q4_K_M, fault).outcome is not FAILED


@pytest.mark.parametrize(
    ("found", "quant"),
    [
        pytest.param(embedded((F16, "distribution", FAILED)), F16, id="f16-rounds-too-little"),
        pytest.param(embedded((F16, "answers", FAILED), (Q8_0, "answers", FAILED)), Q8_0, id="f16-is-as-far"),
        pytest.param(embedded((F16, "answers", PASSED), (Q8_0, "prompts", FAILED)), Q8_0, id="prompts-are-not-rounded"),
        pytest.param(embedded((F16, "answers", PASSED), (Q8_0, "answers", PASSED)), Q8_0, id="near-enough"),
        pytest.param(embedded(), Q8_0, id="nothing-checked"),
    ],
)
def test_rounding_is_not_blamed(found: Verdict, quant: Quant) -> None:
    assert rounding_fault(found, quant) == ""


def test_without_a_more_exact_file_rounding_is_the_likelier_cause() -> None:
    assert "there is no more exact file to compare" in rounding_fault(embedded((Q8_0, "distribution", FAILED)), Q8_0)


def test_the_engine_is_blamed_for_what_is_not_rounding() -> None:
    found = embedded((F16, "answers", PASSED), (Q8_0, "prompts", FAILED), (Q8_0, "answers", FAILED))
    finding = engine_finding(found, Q8_0, "rounding")
    assert (finding.stage, finding.subject, finding.outcome) == (Stage.ENGINE, "q8_0", FAILED)
    assert finding.detail == "prompts: q8_0 prompts"


@pytest.mark.parametrize(
    ("found", "outcome", "detail"),
    [
        pytest.param(
            embedded((F16, "prompts", PASSED), (F16, "answers", PASSED)), PASSED, "prompts, answers", id="passed"
        ),
        pytest.param(embedded((F16, "all", OPEN)), OPEN, "f16 all", id="not-checked"),
        pytest.param(embedded(), OPEN, "it was not compared", id="nothing"),
    ],
)
def test_an_engine_that_did_nothing_wrong(found: Verdict, outcome: Outcome, detail: str) -> None:
    finding = engine_finding(found, F16, "")
    assert (finding.outcome, finding.detail) == (outcome, detail)


REGISTERED = Registered(
    name="m:q8_0", quant=Q8_0, blob_sha256="a" * 64, same_bytes=True, template_source="gguf"
)  # fmt: skip


def stored(
    *, stops: tuple[str, ...] = ("<|end|>",), source: str = "gguf", system: str = "", blob: str = "a" * 64
) -> StoredModel:
    return StoredModel(
        name="m:q8_0",
        blob_sha256=blob,
        template="",
        template_source=source,
        has_go_template=source == "template",
        renderer=None,
        parser=None,
        system=system,
        parameters=(("stop", stops),) if stops else (),
        license_text="",
        model_info=(),
    )


@pytest.mark.parametrize(
    ("model", "detail"),
    [
        pytest.param(stored(stops=()), "its stop '<|end|>' is missing", id="no-stop"),
        pytest.param(stored(stops=("<|other|>",)), "its stop '<|end|>' is missing", id="another-stop"),
        pytest.param(
            stored(source="renderer"),
            "its prompt comes from renderer, not from the file's chat template",
            id="renderer",
        ),
        pytest.param(stored(system="Be brief."), "it has a system prompt: 'Be brief.'", id="system"),
        pytest.param(
            stored(blob="b" * 64), f"its weights are sha256 {'b' * 64}, registered were {'a' * 64}", id="other-weights"
        ),
    ],
)
def test_what_ollama_stored_otherwise_is_named(model: StoredModel, detail: str) -> None:
    finding = registered_finding(verdict(), Q8_0, REGISTERED, model, ("<|end|>",))
    assert (finding.stage, finding.subject, finding.outcome) == (Stage.REGISTERED, "m:q8_0", FAILED)
    assert finding.detail == detail


def test_what_ollama_stored_as_it_was_given_is_judged_by_its_checks() -> None:
    passed = verdict((Q8_0, "ollama", "prompts", PASSED))
    assert registered_finding(passed, Q8_0, REGISTERED, stored(), ("<|end|>",)).outcome is PASSED
    failed = verdict((Q8_0, "ollama", "prompts", FAILED))
    assert registered_finding(failed, Q8_0, REGISTERED, stored(), ("<|end|>",)).detail == "prompts: q8_0 prompts"
    assert registered_finding(verdict(), Q8_0, None, None, ("<|end|>",)).outcome is OPEN


def test_a_type_that_nobody_judged_does_not_show_that_the_next_one_is_too_coarse() -> None:
    """q5_k_m has no limit: it neither clears the engine nor blames it; f16 does."""
    far = [(Quant.Q4_K_M, "distribution", FAILED)]
    unknown = [(Quant.Q5_K_M, "prompts", PASSED), (Quant.Q5_K_M, "distribution", OPEN)]
    assert "there is no more exact file" in rounding_fault(embedded(*unknown, *far), Quant.Q4_K_M)
    assert "f16 is near enough" in rounding_fault(
        embedded((Quant.F16, "distribution", PASSED), *unknown, *far), Quant.Q4_K_M
    )
    assert rounding_fault(embedded((Quant.F16, "distribution", FAILED), *unknown, *far), Quant.Q4_K_M) == ""
