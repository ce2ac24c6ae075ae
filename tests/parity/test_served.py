"""A served model against the reference, with engine doubles, and an Ollama that dies while it is asked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from packager.artifacts import (
    ChatTemplate,
    Check,
    Checkpoint,
    Dtype,
    Gguf,
    Outcome,
    Quant,
    Registered,
    Sampling,
    Verdict,
)
from packager.chat.probes import core_probes, load_probes
from packager.engines.engine import NotSupported
from packager.engines.ollama import OllamaEngine, OllamaServer
from packager.errors import OllamaFailed, ToolMissing
from packager.events import Advanced, Event, silent
from packager.evidence import Part
from packager.parity.findings import Findings
from packager.parity.gates import Gates, QuantGates
from packager.parity.served import served_findings, served_probes
from packager.parity.steps import Steps
from packager.parity.structure import Structure
from packager.stages.verify import VerifyJob, verify
from tests.engines.ollama_faults import Fault, faulty
from tests.parity.engine_doubles import BYE, HI, ODD, REFUSED, Pupil, Served, Teacher, truth_of

GATES = QuantGates(mean_kl=0.01, first_kl=0.02, top1=0.9, answer_margin=0.2, prompt_kl=0.01, perplexity=1.3)
STORED = Registered(name="x:q8_0", quant=Quant.Q8_0, blob_sha256="c" * 64, same_bytes=True, template_source="gguf")
OLD = NotSupported(code="TOO_OLD", detail="Ollama 0.1.0 does not say")
ALL = ("hi", "bye", "odd")
ANSWERED = ("distribution", "same file", "first token", "answers", "stops")
DOORS = ("streaming", "openai endpoint")


def findings(served: OllamaEngine, file: Pupil | None = None, stored: Registered = STORED) -> Findings:
    return served_findings(served, stored, file or Pupil(), truth_of(HI, BYE, ODD), GATES, Steps(99, silent))


def checks(served: OllamaEngine, file: Pupil | None = None, stored: Registered = STORED) -> dict[str, Check]:
    return {check.name: check for check in findings(served, file, stored).checks}


def those(found: dict[str, Check], outcome: Outcome) -> list[str]:
    return [name for name, check in found.items() if check.outcome is outcome]


def values(check: Check) -> dict[str, float]:
    return {measure.name: measure.value for measure in check.measures}


def test_an_equal_engine_passes_every_line_though_it_shows_no_bos() -> None:
    served = Served()
    found = findings(served)
    assert tuple(check.name for check in found.checks) == ("stored model", "prompts", "token ids", *ANSWERED, *DOORS)
    assert {(check.subject, check.engine, check.outcome) for check in found.checks} == {
        ("q8_0", "ollama", Outcome.PASSED)
    }
    by_name = {check.name: check for check in found.checks}
    assert values(by_name["token ids"]) == {"CORE equal": 2, "EXT equal": 1}
    assert by_name["stored model"].detail == "the file's own bytes, prompt from the gguf"
    # Its own answer shows two places, the text put behind the prompt the one where that ends.
    assert served.continued == ["<user>Hi<assistant>onetwo", "<user>Bye<assistant>onetwo"]


def test_evidence_lies_beside_the_lines() -> None:
    found = findings(Served(texts={"bye": "one"}))
    assert [(row.name, row.engine, len(row.cells)) for row in found.matrix] == [
        ("prompts", "ollama", 3),
        ("token ids", "ollama", 3),
    ]
    (distance,) = found.distances
    assert (distance.engine, distance.part, distance.positions) == ("ollama", Part.ANSWER, 6)
    assert (distance.mean_kl, distance.top1, distance.perplexity_ratio) == (pytest.approx(0, abs=1e-6), 1, 1)
    assert [place.tokens for place in found.positions] == [("one", "two", "<end>")] * 2
    assert [(text.conversation, text.text, text.common_characters) for text in found.answers] == [
        ("hi", "onetwo", 6),
        ("bye", "one", 3),
    ]


def test_a_rewritten_file_is_neither_passed_nor_failed() -> None:
    stored = Registered(
        name="x", quant=Quant.Q8_0, blob_sha256="0123456789abcdef" * 4, same_bytes=False, template_source="gguf"
    )
    found = checks(Served(), stored=stored)["stored model"]
    assert found.outcome is Outcome.NOT_CHECKED
    assert "(now sha256 0123456789ab…)" in found.detail


@pytest.mark.parametrize(
    ("count", "detail"),
    [
        pytest.param(3, "bye: reference 4 tokens, engine evaluated 3", id="a lost BOS"),
        pytest.param(5, "bye: reference 4 tokens, engine evaluated 5", id="a doubled BOS"),
    ],
)
def test_the_count_shows_what_the_text_hides(count: int, detail: str) -> None:
    found = checks(Served(counts={"bye": count}))
    assert those(found, Outcome.FAILED) == ["token ids"]
    assert found["token ids"].detail == f"1 of 2 equal, odd ones 1 of 1; {detail}"


def test_a_prompt_with_bos_in_its_text_is_fed_two() -> None:
    """llama-server adds the token to a text that already has it."""
    found = checks(Served(prompts={"hi": "<bos><user>Hi<assistant>"}))
    assert those(found, Outcome.FAILED) == ["token ids"]
    assert found["token ids"].detail.endswith("hi: token 1: reference 1 '<user>', engine 0 '<bos>'")


def test_another_prompt_fails_as_text_and_as_tokens() -> None:
    found = checks(Served(prompts={"hi": "<user>Bye<assistant>"}))
    assert those(found, Outcome.FAILED) == ["prompts", "token ids"]
    assert found["prompts"].detail.endswith("reference '<user>Hi<assistant>', engine '<user>Bye<assistant>'")
    assert found["token ids"].detail.endswith("hi: token 2: reference 4 'Hi', engine 5 'Bye'")


@pytest.mark.parametrize(
    ("served", "lines", "reason"),
    [
        pytest.param(Served(prompts=dict.fromkeys(ALL, OLD)), ["prompts", "token ids"], "TOO_OLD", id="prompt"),
        pytest.param(Served(counts=dict.fromkeys(ALL)), ["token ids"], "NO_PROMPT_COUNT", id="count"),
        pytest.param(Served(texts={"bye": OLD}), [*ANSWERED, *DOORS], "TOO_OLD", id="answer"),
        pytest.param(
            Served(changes={"tokens": ()}, continues=OLD),
            ["distribution", "same file", "first token"],
            "TOO_OLD",
            id="probabilities",
        ),
    ],
)
def test_what_ollama_does_not_say_is_not_checked_and_the_rest_is(served: Served, lines: list[str], reason: str) -> None:
    found = checks(served)
    assert those(found, Outcome.NOT_CHECKED) == lines
    assert all(found[line].detail.startswith(f"{reason}: ") for line in lines)
    assert those(found, Outcome.FAILED) == []


def test_a_template_that_trips_in_ollama_alone_fails() -> None:
    found = checks(Served(prompts={"hi": REFUSED}, counts={"hi": REFUSED}))
    assert those(found, Outcome.FAILED) == ["prompts", "token ids"]


def test_without_a_tokenizer_here_ollamas_text_and_answers_are_still_compared() -> None:
    found = checks(Served(), Pupil(broken=ToolMissing("llama-cpp-python is not installed")))
    assert those(found, Outcome.NOT_CHECKED) == ["token ids", "distribution", "same file", "first token"]
    assert those(found, Outcome.FAILED) == []
    assert found["first token"].detail == "NO_TOKENIZER: llama-cpp-python is not installed"


@pytest.mark.parametrize(
    ("text", "outcome"),
    [pytest.param("oneone", Outcome.PASSED, id="near-tie"), pytest.param("", Outcome.FAILED, id="no word")],
)
def test_answers_are_judged_where_they_part(text: str, outcome: Outcome) -> None:
    found = checks(Served(texts={"hi": text}))["answers"]
    assert found.outcome is outcome
    assert values(found)["equal answers"] == 1


def test_progress_counts_every_question() -> None:
    events: list[Event] = []
    served_findings(Served(), STORED, Pupil(), truth_of(HI, BYE, ODD), GATES, Steps(3 + 2, events.append))
    steps = [event for event in events if isinstance(event, Advanced)]
    assert [event.done for event in steps] == list(range(1, served_probes(3, 2) + 1))
    assert [steps[at].detail for at in (0, -1)] == ["ollama q8_0: hi", "ollama q8_0: endpoints bye"]


# --- as one column of the verdict ----------------------------------------------------------------------------------------

REPLY: dict[str, Any] = {
    "message": {"role": "assistant", "content": "onetwo"},
    "done": True,
    "prompt_eval_count": 4,
    "prompt_eval_cached_count": 0,
    "_debug_info": {"rendered_template": "<user>Hi<assistant>"},
    "logprobs": [{"token": "one", "logprob": math.log(0.82)}],
}
EMBEDDED = len(load_probes()) + len(core_probes()) + 3


@dataclass
class Dying:
    """An ear for progress that resets every connection once this many questions were put to Ollama."""

    fault: Fault
    after: int | None

    def __post_init__(self) -> None:
        self.steps: list[Advanced] = []

    def __call__(self, event: Event) -> None:
        assert isinstance(event, Advanced)
        self.steps.append(event)
        if sum(step.detail.startswith("ollama") for step in self.steps) == self.after:
            self.fault.breaks = 0


@pytest.fixture
def without_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> VerifyJob:
    """A comparison whose reference and file are doubles."""
    monkeypatch.setenv("PACKAGER_CACHE", str(tmp_path))
    sound = Check(subject="q8_0", engine="file", name="structure", outcome=Outcome.PASSED, detail="")
    monkeypatch.setattr("packager.engines.transformers.Reference", lambda *_, **__: Teacher())
    monkeypatch.setattr("packager.engines.llama_cpp.Embedded", lambda *_, **__: Pupil())
    monkeypatch.setattr("packager.stages.verify.check_structure", lambda *_, **__: Structure(check=sound, whole=True))
    base = Checkpoint(
        folder=Path("base"),
        name="base",
        architecture="LlamaForCausalLM",
        dtype=Dtype.FLOAT32,
        hidden_size=32,
        layers=2,
        vocab_size=10,
        context_tokens=None,
        ties_embeddings=False,
        eos_token_ids=(8,),
        sampling=Sampling(),
        chat_template=None,
        license_id=None,
        license_file=None,
        tensors=(),
    )
    template = ChatTemplate(source="", original_sha256="0" * 64, text="", pins=(), stops=("<end>",), adds_bos=True)
    gguf = Gguf(path=Path("x-Q8_0.gguf"), quant=Quant.Q8_0, sha256="c" * 64, size_bytes=1)
    return VerifyJob(
        base=base, adapter=None, template=template, ggufs=(gguf,), registered=(STORED,), gates=Gates(), inputs=()
    )


def compared(job: VerifyJob, fault: Fault, after: int | None = None) -> tuple[Verdict, list[Advanced]]:
    ear = Dying(fault, after)
    with faulty(fault) as url:
        return verify(job, OllamaServer.connect(url), emit=ear).verdict, ear.steps


def column(verdict: Verdict, engine: str) -> dict[str, Outcome]:
    return {check.name: check.outcome for check in verdict.checks if check.engine == engine}


@pytest.mark.parametrize(
    "after",
    [
        pytest.param(1, id="between two conversations"),
        pytest.param(len(load_probes()), id="before the endpoints"),
        pytest.param(len(load_probes()) + 1, id="between two conversations through every endpoint"),
    ],
)
def test_an_ollama_that_dies_fails_its_own_column(without_weights: VerifyJob, after: int) -> None:
    verdict, steps = compared(without_weights, Fault(lines={"/api/chat": [REPLY]}), after)
    assert column(verdict, "ollama") == {"all": Outcome.FAILED}
    assert "broke off in /api/chat" in verdict.checks[-1].detail
    assert set(column(verdict, "llama.cpp").values()) == {Outcome.PASSED}
    assert not verdict.passed
    assert sum(step.detail.startswith("ollama") for step in steps) == after
    assert [step.done for step in steps[-2:]] == [len(core_probes()) + EMBEDDED + after, steps[-1].total]


def test_progress_reaches_its_total_past_what_was_not_asked(without_weights: VerifyJob) -> None:
    """Ollama refuses a conversation that the reference answers, and every one through the endpoints."""
    refusal = (400, {"error": "Jinja Exception: roles must alternate"})
    verdict, steps = compared(without_weights, Fault(replies={"/api/chat": refusal}))
    assert column(verdict, "ollama")["distribution"] is Outcome.NOT_CHECKED
    assert {step.total for step in steps} == {len(core_probes()) + EMBEDDED + len(load_probes()) + 2}
    assert steps[-1].done == steps[-1].total
    done = [step.done for step in steps]
    assert done == sorted(set(done))


def test_a_server_that_fails_is_not_swallowed_below_the_verdict() -> None:
    with faulty(Fault(replies={"/api/chat": (500, {"error": "out of memory"})})) as url:
        engine = OllamaEngine(OllamaServer.connect(url), "x:q8_0")
        with pytest.raises(OllamaFailed, match="out of memory"):
            checks(engine)
