"""The values between rooms: their JSON form, written out by hand, and what checks amount to."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packager import artifacts
from packager.artifacts import Check, Gguf, Measure, Outcome, Quant, Verdict
from packager.codec import canonical_json, decode, encode, pretty_json
from packager.quants import DEFAULT_QUANTS

TENSOR = '{"name": "w", "dtype": "BF16", "shape": [64, 32], "file": "b/m", "offset": 9, "size_bytes": 4096}'
PAIR = f'{{"target": "w", "a": {TENSOR}, "b": {TENSOR}, "scale": 0.5, "transposed": true, "magnitude": {TENSOR}}}'
EXPERT = (
    f'{{"target": "w", "a": {TENSOR}, "b": {TENSOR}, "scale": 0.5, "experts": 4, "expert": null, "first_output": 8,'
    ' "transposed": true}'
)
REPLACED = f'{{"target": "w", "value": {TENSOR}}}'
ROWS = f'{{"target": "w", "rows": [3, 1], "values": {TENSOR}}}'
ADDED = f'{{"target": "w", "value": {TENSOR}, "scale": 2.0}}'
STEP = '{"folder": "/l", "unties": true, "vocab_size": 100}'
SAMPLING = '{"temperature": 0.7, "top_k": 20, "top_p": null, "min_p": null, "repetition_penalty": 1.0}'
CALL = '{"name": "f", "arguments": {"b": [1.5, null], "a": "é"}, "id": "c1"}'
TOOL = '{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}'
MESSAGE = (
    '{"role": "user", "content": "a\\n\u2028😀", "thinking": "t",'
    f' "tool_calls": [{CALL}], "tool_name": "f", "tool_call_id": "c1"}}'
)
PIN = '{"name": "x", "value": "1", "reason": "as in training"}'
MEASURE = '{"name": "top1", "value": 0.75, "unit": "share", "limit": 0.5, "at_least": true}'
CHECK = (
    '{"subject": "q8_0", "engine": "ollama", "name": "answers", "outcome": "not checked", "detail": "无",'
    f' "measures": [{MEASURE}]}}'
)
PARAMETERS = (
    '{"stop": ["a", "b"], "num_ctx": 8192, "temperature": 0.5, "top_k": null, "top_p": null, "min_p": null,'
    ' "repeat_penalty": 1.5}'
)
FORMS = {
    "TensorEntry": TENSOR,
    "Sampling": SAMPLING,
    "Checkpoint": '{"folder": "b", "name": "b", "architecture": "A", "dtype": "bfloat16", "hidden_size": 32, "layers": 2,'
    ' "vocab_size": 99, "context_tokens": null, "ties_embeddings": true, "eos_token_ids": [2, 7],'
    f' "sampling": {SAMPLING}, "chat_template": "", "license_id": null, "license_file": "b/L", "tensors": [{TENSOR}]}}',
    "LoraPair": PAIR,
    "ExpertPair": EXPERT,
    "ReplacedTensor": REPLACED,
    "ReplacedRows": ROWS,
    "AddedVector": ADDED,
    "AdapterStep": STEP,
    "Adapter": f'{{"steps": [{STEP}], "name": "l", "base_name": null,'
    f' "updates": [{PAIR}, {EXPERT}, {REPLACED}, {ROWS}, {ADDED}],'
    f' "chat_template": null, "output_layer": {TENSOR}, "tokenizer_folder": "/t"}}',
    "Gguf": '{"path": "o/m.gguf", "quant": "q4_k_m", "sha256": "ab", "size_bytes": 1099511627776}',
    "ToolCall": CALL,
    "Message": MESSAGE,
    "Conversation": f'{{"id": "c1", "group": "CORE", "messages": [{MESSAGE}, {MESSAGE}], "tools": [{TOOL}]}}',
    "Pin": PIN,
    "ChatTemplate": '{"source": "s", "original_sha256": "0", "text": "{{ x }}", '
    f'"pins": [{PIN}], "stops": [], "adds_bos": false, "rewritten": null}}',
    "TemplateForm": '{"text": null, "code": "POSITION", "reason": "rounds are numbered", "limits": ["a", "b"]}',
    "Measure": MEASURE,
    "Check": CHECK,
    "Verdict": f'{{"checks": [{CHECK}], "versions": ["torch 2.6"]}}',
    "OllamaParameters": PARAMETERS,
    "Modelfile": f'{{"gguf": "m.gguf", "parameters": {PARAMETERS}, "license_text": "MIT", "template": null}}',
    "Registered": '{"name": "m:f16", "quant": "f16", "blob_sha256": "c", "same_bytes": true, "template_source": "gguf"}',
}


# --- JSON --------------------------------------------------------------------------------------------------------------


def test_every_value_type_is_written_out_here() -> None:
    assert {name for name, kind in vars(artifacts).items() if dataclasses.is_dataclass(kind)} == {*FORMS, "JsonObject"}


@pytest.mark.parametrize("name", FORMS, ids=str)
def test_a_value_has_this_json_form_and_comes_back_frozen(name: str) -> None:
    form = json.loads(FORMS[name])
    value: Any = decode(getattr(artifacts, name), form)
    assert encode(value) == form
    assert list(encode(value)) == list(form)
    for text in (canonical_json(value), pretty_json(value)):
        assert repr(decode(type(value), json.loads(text))) == repr(value)  # 1 == True == 1.0, but not by repr
    assert hash(dataclasses.replace(value)) == hash(value)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, next(iter(form)), None)


def test_types_are_restored_not_only_texts() -> None:
    assert decode(Gguf, json.loads(FORMS["Gguf"])) == Gguf(
        path=Path("o/m.gguf"), quant=Quant.Q4_K_M, sha256="ab", size_bytes=1 << 40
    )
    measure = Measure(name="top1", value=0.75, unit="share", limit=0.5, at_least=True)
    check = Check(
        subject="q8_0", engine="ollama", name="answers", outcome=Outcome.NOT_CHECKED, detail="无", measures=(measure,)
    )
    assert repr(decode(Verdict, json.loads(FORMS["Verdict"]))) == repr(
        Verdict(checks=(check,), versions=("torch 2.6",))
    )


# --- verdicts ----------------------------------------------------------------------------------------------------------

P, F, N = Outcome.PASSED, Outcome.FAILED, Outcome.NOT_CHECKED


def check(subject: str, outcome: Outcome) -> Check:
    return Check(subject=subject, engine="file", name="structure", outcome=outcome, detail="")


def verdict(*checks: tuple[str, Outcome]) -> Verdict:
    return Verdict(checks=tuple(check(*line) for line in checks), versions=())


@pytest.mark.parametrize(
    ("lines", "passed", "good"),
    [
        ((), False, set()),
        ((("q8_0", P),), True, {"q8_0"}),
        ((("q8_0", F),), False, set()),
        ((("q8_0", N),), False, set()),
        ((("q8_0", P), ("q8_0", N)), True, {"q8_0"}),
        ((("q8_0", P), ("q8_0", F)), False, set()),
        ((("q8_0", N), ("q8_0", F)), False, set()),
        ((("q8_0", P), ("f16", F)), False, {"q8_0"}),
        ((("q8_0", P), ("f16", N)), True, {"q8_0"}),
        ((("template", P),), True, set()),
        ((("template", P), ("q8_0", N)), True, set()),
        ((("template", N), ("q8_0", P)), True, {"q8_0"}),
        ((("template", F), ("q8_0", P), ("f16", P), ("q4_k_m", P)), False, set()),
        ((("template", P), ("q8_0", P), ("f16", P), ("q4_k_m", F)), False, {"q8_0", "f16"}),
    ],
    ids=lambda value: " ".join(f"{s}={o.name}" for s, o in value) or "nothing" if isinstance(value, tuple) else "",
)
def test_what_checks_amount_to(lines: tuple[tuple[str, Outcome], ...], passed: bool, good: set[str]) -> None:
    found = verdict(*lines)
    assert found.passed is passed
    assert {quant.value for quant in DEFAULT_QUANTS if found.passed_for(quant)} == good


LINES = st.tuples(st.sampled_from([*(quant.value for quant in DEFAULT_QUANTS), "template"]), st.sampled_from(Outcome))
TABLES = st.lists(LINES, max_size=6)


def _answers(found: Verdict) -> tuple[bool, ...]:
    return (found.passed, *(found.passed_for(quant) for quant in DEFAULT_QUANTS))


@settings(max_examples=60, deadline=None)
@given(table=TABLES, more=LINES, data=st.data())
def test_a_check_that_was_not_made_changes_nothing(
    table: list[tuple[str, Outcome]], more: tuple[str, Outcome], data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(table)))
    assert _answers(verdict(*table[:at], (more[0], N), *table[at:])) == _answers(verdict(*table))
    assert not any(_answers(verdict(*((subject, N) for subject, _ in table))))


@settings(max_examples=60, deadline=None)
@given(table=TABLES, subject=st.sampled_from([*(quant.value for quant in DEFAULT_QUANTS), "template"]), data=st.data())
def test_one_failure_is_enough_and_spares_other_quants(
    table: list[tuple[str, Outcome]], subject: str, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(table)))
    before, after = verdict(*table), verdict(*table[:at], (subject, F), *table[at:])
    assert not after.passed
    for quant in DEFAULT_QUANTS:
        hit = subject in (quant.value, "template")
        assert after.passed_for(quant) == (before.passed_for(quant) and not hit)
