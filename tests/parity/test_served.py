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
from packager.engines.engine import NotSupported, TokenLogprob
from packager.engines.ollama import OllamaEngine, OllamaServer
from packager.errors import OllamaFailed, ToolMissing
from packager.events import Advanced, Event, silent
from packager.parity.gates import Gates, QuantGates
from packager.parity.served import served_checks, served_probes
from packager.parity.steps import Steps
from packager.parity.structure import Structure
from packager.stages.verify import VerifyJob, verify
from tests.engines.ollama_faults import Fault, faulty
from tests.parity.engine_doubles import BYE, HI, ODD, REFUSED, Pupil, Served, Teacher, truth_of

GATES = QuantGates(mean_kl=0.01, first_kl=0.02, top1=0.9, answer_margin=0.2, prompt_kl=0.01, perplexity=1.3)
STORED = Registered(name="x:q8_0", quant=Quant.Q8_0, blob_sha256="c" * 64, same_bytes=True, template_source="gguf")
OLD = NotSupported(code="TOO_OLD", detail="Ollama 0.1.0 does not say")
ALL = ("hi", "bye", "odd")


def checks(served: OllamaEngine, file: Pupil | None = None, stored: Registered = STORED) -> dict[str, Check]:
    truth = truth_of(HI, BYE, ODD)
    found = served_checks(served, stored, file or Pupil(), truth, GATES, Steps(99, silent))
    return {check.name: check for check in found}


def those(found: dict[str, Check], outcome: Outcome) -> list[str]:
    return [name for name, check in found.items() if check.outcome is outcome]


def values(check: Check) -> dict[str, float]:
    return {measure.name: measure.value for measure in check.measures}


def test_an_equal_engine_passes_every_line_though_it_shows_no_bos() -> None:
    served = Served()
    found = checks(served)
    assert list(found) == ["stored model", "prompts", "token ids", "first token", "answers"]
    assert {(check.subject, check.engine, check.outcome) for check in found.values()} == {
        ("q8_0", "ollama", Outcome.PASSED)
    }
    assert values(found["token ids"]) == {"CORE equal": 2, "EXT equal": 1}
    assert found["stored model"].detail == "the file's own bytes, prompt from the gguf"
    assert served.asked_top == [20, 20]


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
    ("served", "lines"),
    [
        pytest.param(Served(prompts=dict.fromkeys(ALL, OLD)), ["prompts", "token ids"], id="prompt"),
        pytest.param(Served(counts=dict.fromkeys(ALL, OLD)), ["token ids"], id="count"),
        pytest.param(Served(first=OLD), ["first token"], id="probabilities"),
        pytest.param(Served(texts={"bye": OLD}), ["answers"], id="answer"),
    ],
)
def test_what_ollama_does_not_say_is_not_checked_and_the_rest_is(served: Served, lines: list[str]) -> None:
    found = checks(served)
    assert those(found, Outcome.NOT_CHECKED) == lines
    assert {found[line].detail for line in lines} == {"TOO_OLD: Ollama 0.1.0 does not say"}
    assert those(found, Outcome.FAILED) == []


def test_a_template_that_trips_in_ollama_alone_fails() -> None:
    found = checks(Served(prompts={"hi": REFUSED}, counts={"hi": REFUSED}))
    assert those(found, Outcome.FAILED) == ["prompts", "token ids"]


def test_without_a_tokenizer_here_ollamas_text_and_answers_are_still_compared() -> None:
    found = checks(Served(), Pupil(broken=ToolMissing("llama-cpp-python is not installed")))
    assert those(found, Outcome.NOT_CHECKED) == ["token ids", "first token"]
    assert those(found, Outcome.PASSED) == ["stored model", "prompts", "answers"]
    assert found["first token"].detail == "llama-cpp-python is not installed"


def seen(p: float, q: float) -> float:
    """KL of two categories: one shown token, and all others."""
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


@pytest.mark.parametrize(
    ("share", "outcome"),
    [pytest.param(0.80, Outcome.PASSED, id="near"), pytest.param(0.50, Outcome.FAILED, id="far")],
)
def test_first_tokens_are_judged_by_what_is_shown_of_them(share: float, outcome: Outcome) -> None:
    served = Served(first=(TokenLogprob(text="one", logprob=math.log(share)),))
    file = Pupil()
    found = checks(served, file)["first token"]
    assert found.outcome is outcome
    assert [(measure.value, measure.limit) for measure in found.measures] == [
        (pytest.approx(seen(0.82, share), rel=1e-4), 0.02),
        (pytest.approx(seen(0.82, share), rel=1e-4), None),
    ]
    assert file.fed == [((0, 1, 4, 2), 3), ((0, 1, 5, 2), 3)]


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
    served_checks(Served(), STORED, Pupil(), truth_of(HI, BYE, ODD), GATES, Steps(3 + 2 + 2, events.append))
    steps = [event for event in events if isinstance(event, Advanced)]
    assert [event.done for event in steps] == list(range(1, served_probes(3, 2) + 1))
    assert [steps[at].detail for at in (0, 3, -1)] == [
        "ollama q8_0: prompt hi",
        "ollama q8_0: first token hi",
        "ollama q8_0: answer bye",
    ]


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
    monkeypatch.setattr("packager.engines.transformers.Reference", lambda *_: Teacher())
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
        pytest.param(1, id="between two prompts"),
        pytest.param(len(load_probes()), id="before the first tokens"),
        pytest.param(len(load_probes()) + len(core_probes()) + 1, id="between two answers"),
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
    """Ollama shows no probabilities: the first question for them is the last."""
    reply = {key: value for key, value in REPLY.items() if key != "logprobs"}
    verdict, steps = compared(without_weights, Fault(lines={"/api/chat": [reply]}))
    assert column(verdict, "ollama")["first token"] is Outcome.NOT_CHECKED
    assert {step.total for step in steps} == {len(core_probes()) + 2 * EMBEDDED}
    assert steps[-1].done == steps[-1].total
    done = [step.done for step in steps]
    assert done == sorted(set(done))


def test_a_server_that_fails_is_not_swallowed_below_the_verdict() -> None:
    with faulty(Fault(replies={"/api/chat": (500, {"error": "out of memory"})})) as url:
        engine = OllamaEngine(OllamaServer.connect(url), "x:q8_0")
        with pytest.raises(OllamaFailed, match="out of memory"):
            checks(engine)
