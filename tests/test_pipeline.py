"""The build's decisions between its stages: what is recommended, which name stands for it, what makes a verdict stale."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packager import pipeline
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
from packager.durable import FileDigest
from packager.engines.ollama import OllamaServer
from packager.errors import OllamaFailed
from packager.events import Event, Noted
from packager.evidence import Evidence
from packager.formats.model_name import ModelName
from packager.parity.gates import gates_from
from packager.parity.report import REPORT_NAME
from packager.pipeline import connect, failed, point_name, recommend, verify_once
from packager.plan import BuildRequest
from packager.quants import DEFAULT_QUANTS
from packager.stages.blame import Traced
from packager.stages.verify import Gates, Verified, VerifyJob
from packager.tool_versions import tool_versions
from packager.workspace import Workspace
from tests.engines.ollama_faults import SHOW, Fault, faulty

P, F, N = Outcome.PASSED, Outcome.FAILED, Outcome.NOT_CHECKED
NAME = ModelName.parse("packy")
SUBJECTS = ("f16", "q8_0", "q4_k_m", "template")


def verdict(**outcomes: Outcome) -> Verdict:
    checks = (Check(subject=s, engine="file", name="structure", outcome=o, detail="") for s, o in outcomes.items())
    return Verdict(checks=tuple(checks), versions=())


# --- recommend and failed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "quant"),
    [
        (None, "f16"),
        (verdict(f16=P, q8_0=P, q4_k_m=P), "q4_k_m"),
        (verdict(f16=P, q8_0=P, q4_k_m=F), "q8_0"),
        (verdict(f16=P, q8_0=F, q4_k_m=P), "q4_k_m"),
        (verdict(f16=P, q8_0=P, q4_k_m=N), "q8_0"),
        (verdict(f16=F, q8_0=F, q4_k_m=F), "f16"),
        (verdict(f16=N, q8_0=N, q4_k_m=N), "f16"),
        (verdict(f16=P, q8_0=P, q4_k_m=P, template=F), "f16"),
    ],
    ids=["no-verdict", "all", "two", "gap", "smallest-unknown", "none", "nothing-checked", "template-failed"],
)
def test_the_smallest_that_passes_is_recommended_or_else_the_most_exact(found: Verdict | None, quant: str) -> None:
    assert recommend(DEFAULT_QUANTS, found) == quant


def test_a_type_without_a_measured_limit_is_not_recommended() -> None:
    """Its structure and prompts pass, and how far it is from the reference nobody judged."""
    known = [
        Check(subject=quant, engine="llama.cpp", name=name, outcome=outcome, detail="")
        for quant, distance in (("q8_0", P), ("iq2_s", N))
        for name, outcome in (("prompts", P), ("distribution", distance))
    ]
    found = Verdict(checks=tuple(known), versions=())
    assert recommend((Quant.Q8_0, Quant.IQ2_S), found) is Quant.Q8_0
    assert recommend((Quant.IQ2_S,), found) is Quant.IQ2_S


@settings(max_examples=60, deadline=None)
@given(outcomes=st.dictionaries(st.sampled_from(SUBJECTS), st.sampled_from(Outcome)), built=st.sets(st.integers(0, 2)))
def test_what_is_recommended_was_built(outcomes: dict[str, Outcome], built: set[int]) -> None:
    quants = tuple(list(DEFAULT_QUANTS)[index] for index in sorted(built | {1}))
    chosen = recommend(quants, verdict(**outcomes))
    passing = [] if outcomes.get("template") is F else [quant for quant in quants if outcomes.get(quant.value) is P]
    assert chosen == (passing or quants[:1])[-1]


@pytest.mark.parametrize(
    ("found", "answer"),
    [(None, False), (verdict(), False), (verdict(f16=N), False), (verdict(f16=P, q8_0=N), False),
     (verdict(f16=P, q8_0=F), True), (verdict(template=F), True)],
    ids=["no-verdict", "no-checks", "not-checked", "passed", "one-failed", "template-failed"],
)  # fmt: skip
def test_a_verdict_failed_only_by_a_failed_check(found: Verdict | None, answer: bool) -> None:
    assert failed(found) is answer


# --- connect -----------------------------------------------------------------------------------------------------------


def request(**changes: Any) -> BuildRequest:
    return BuildRequest(base=Path("base"), adapter=None, output=Path("out/my-build"), quants=DEFAULT_QUANTS, **changes)


def test_no_register_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    fault, told = Fault(), list[Event]()
    with faulty(fault) as url:
        monkeypatch.setenv("OLLAMA_HOST", url)
        assert connect(request(register=False), NAME, emit=told.append) is None
        assert connect(request(), None, emit=told.append) is None
    assert fault.requests == []
    assert told == [Noted(stage="register", text="no --name: nothing is registered in Ollama")]


def test_a_server_that_answers_is_used_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    told = list[Event]()
    with faulty(Fault(version="0.34.0")) as url:
        monkeypatch.setenv("OLLAMA_HOST", url)
        server = connect(request(), NAME, emit=told.append)
        assert server is not None
        assert (server.url, server.version) == (url, "0.34.0")
    assert told == []


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (None, "no Ollama answers at http://127.0.0.1:9"),
        (Fault(version="0.29.9"), "is version 0.29.9, older than 0.30.0"),
        (Fault(version=None), "is not Ollama"),
    ],
    ids=["nothing-listens", "too-old", "something-else"],
)
@pytest.mark.parametrize(
    ("typed", "shown"), [("packy", "packy:latest"), ("me/packy:v2", "me/packy:v2")], ids=["short", "full"]
)
def test_without_ollama_the_build_goes_on_and_says_how_to_register_later(
    fault: Fault | None, cause: str, typed: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = list[Event]()
    with faulty(fault or Fault()) as url:
        monkeypatch.setenv("OLLAMA_HOST", url if fault else "127.0.0.1:9")
        assert connect(request(name=typed), ModelName.parse(typed), emit=told.append) is None
    (note,) = told
    assert isinstance(note, Noted)
    assert note.warning
    assert cause in note.text
    assert note.text.endswith(f"; register later: packager register out/my-build --name {shown}")


def test_the_command_for_later_can_be_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    told = list[Event]()
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    connect(dataclasses.replace(request(), output=Path("my out")), NAME, emit=told.append)
    (note,) = told
    assert isinstance(note, Noted)
    assert note.text.endswith("packager register 'my out' --name packy:latest")


# --- point_name --------------------------------------------------------------------------------------------------------


MADE = (
    Gguf(path=Path("out/packy-Q8_0.gguf"), quant=Quant.Q8_0, sha256="a" * 64, size_bytes=1),
    Gguf(path=Path("out/packy-F16.gguf"), quant=Quant.F16, sha256="c" * 64, size_bytes=1),
)


class Stored(dict[str, Any]):
    """Replies of a store that holds these models: name to a letter that stands for its blob."""

    def __init__(self, fault: Fault, **blobs: str) -> None:
        super().__init__()
        self.fault, self.blobs = fault, {name.replace("__", ":"): blob for name, blob in blobs.items()}

    def get(self, path: str, default: Any = None) -> Any:
        if path != "/api/show":
            return super().get(path, default)
        blob = self.blobs.get(self.fault.bodies[-1]["model"])
        return (200, {**SHOW, "modelfile": f"FROM /store/blobs/sha256-{blob * 64}\n"}) if blob else (404, {"error": ""})


def point(name: ModelName, *, replace: bool = False, **blobs: str) -> tuple[Fault, list[Event]]:
    fault, told = Fault(), list[Event]()
    fault.replies = Stored(fault, **blobs)
    with faulty(fault) as url:
        point_name(name, Quant.Q8_0, MADE, OllamaServer.connect(url), replace=replace, emit=told.append)
    return fault, told


@pytest.mark.parametrize(
    ("blobs", "replace"),
    [({}, False), ({"packy__latest": "a"}, False), ({"packy__latest": "c"}, False), ({"packy__latest": "b"}, True)],
    ids=["free", "the-same-already", "another-quant-of-this-folder", "another-and-replace"],
)
def test_the_name_alone_stands_for_the_recommended_quant(blobs: dict[str, str], replace: bool) -> None:
    fault, told = point(NAME, replace=replace, packy__q8_0="a", **blobs)
    assert fault.requests[-1] == "POST /api/copy"
    assert fault.bodies[-1] == {"source": "packy:q8_0", "destination": "packy:latest"}
    assert told == [Noted(stage="register", text="packy:latest stands for packy:q8_0")]


def test_a_name_that_stands_for_another_model_is_left_alone() -> None:
    fault = Fault()
    fault.replies = Stored(fault, packy__q8_0="a", packy__latest="b")
    with faulty(fault) as url, pytest.raises(OllamaFailed) as caught:
        point_name(NAME, Quant.Q8_0, MADE, OllamaServer.connect(url), replace=False, emit=lambda event: None)
    assert caught.value.message == "packy:latest exists in Ollama already, and is another model"
    assert "--replace" in caught.value.hint
    assert "POST /api/copy" not in fault.requests


# --- what a result depends on ------------------------------------------------------------------------------------------


def test_tool_versions_are_those_of_the_files_on_the_disk() -> None:
    found = dict(line.split(" ") for line in tool_versions())
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert found.pop("ollama-packager") == project["version"]
    assert f"llama-cpp-python=={found.pop('llama-cpp-python')}" in project["optional-dependencies"]["build"]
    assert set(found) == {"gguf", "transformers", "peft", "torch"}
    for package, file in (("transformers", "__init__.py"), ("peft", "__init__.py"), ("torch", "version.py")):
        spec = find_spec(package)
        assert spec is not None
        source = Path(str(spec.origin)).with_name(file).read_text()
        assert re.findall(r"(?m)^__version__ = ['\"]([^'\"+]*)", source) == [found[package].partition("+")[0]]


BASE = Checkpoint(
    folder=Path("base"), name="base", architecture="A", dtype=Dtype.FLOAT16, hidden_size=1, layers=1, vocab_size=1,
    context_tokens=None, ties_embeddings=False, eos_token_ids=(), sampling=Sampling(), chat_template=None,
    license_id=None, license_file=None, tensors=(),
)  # fmt: skip
TEMPLATE = ChatTemplate(source="s", original_sha256="0", text="t", pins=(), stops=(), adds_bos=False)
GGUF = Gguf(path=Path("m.gguf"), quant=Quant.F16, sha256="a" * 64, size_bytes=1)
INPUTS = (FileDigest(name="m.safetensors", size_bytes=1, sha256="b" * 64),)
JOB = VerifyJob(base=BASE, adapter=None, template=TEMPLATE, ggufs=(GGUF,), registered=(), gates=Gates(), inputs=INPUTS)


@pytest.mark.parametrize(
    ("changes", "versions", "runs"),
    [
        ({}, (), 1),
        ({"gates": gates_from((("f16.top1", 0.5),))}, (), 2),
        ({"template": dataclasses.replace(TEMPLATE, text="u")}, (), 2),
        ({"ggufs": (dataclasses.replace(GGUF, sha256="c" * 64),)}, (), 2),
        ({"inputs": (dataclasses.replace(INPUTS[0], sha256="d" * 64),)}, (), 2),
        ({}, ("torch 99",), 2),
    ],
    ids=["same", "gates", "template", "gguf", "inputs", "versions"],
)
def test_a_verdict_is_found_again_for_exactly_what_it_was_about(
    changes: dict[str, Any], versions: Any, runs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts = [verdict(f16=P), verdict(f16=F)]
    asked: list[VerifyJob] = []

    def compare(job: VerifyJob, server: object, *, emit: object) -> Verified:
        asked.append(job)
        return Verified(verdict=verdicts[len(asked) - 1], evidence=Evidence())

    monkeypatch.setattr(pipeline, "verify", compare)
    monkeypatch.setattr(pipeline, "trace", lambda *_, **__: Traced(checks=(), tensors=(), blame=None))
    first = dataclasses.replace(JOB, ggufs=(dataclasses.replace(GGUF, path=tmp_path / "m.gguf"),))
    with Workspace(tmp_path) as workspace:
        assert verify_once(first, None, None, workspace, lambda event: None) == verdicts[0]
    if versions:
        monkeypatch.setattr(pipeline, "tool_versions", lambda: versions)
    job = dataclasses.replace(first, **changes)
    job = dataclasses.replace(job, ggufs=(dataclasses.replace(job.ggufs[0], path=tmp_path / "m.gguf"),))
    with Workspace(tmp_path) as workspace:
        assert verify_once(job, None, None, workspace, lambda event: None) == verdicts[runs - 1]
    assert asked == [first, job][:runs]
    assert ('"outcome": "failed"' in (tmp_path / REPORT_NAME).read_text()) == (runs == 2)


def test_who_is_to_blame_is_said_again_with_a_verdict_that_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Verified(verdict=verdict(f16=F), evidence=Evidence())
    monkeypatch.setattr(pipeline, "verify", lambda job, server, *, emit: found)
    job = dataclasses.replace(JOB, ggufs=(dataclasses.replace(GGUF, path=tmp_path / "m.gguf"),))
    for _ in range(2):
        events: list[Event] = []
        with Workspace(tmp_path) as workspace:
            verify_once(job, None, None, workspace, events.append)
        said = [event.text for event in events if isinstance(event, Noted) and event.warning]
        assert [text.partition(":")[0] for text in said] == ["to blame"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shown:
    """What an Ollama stores under a name, as far as a verdict depends on it."""

    system: str


class Server:
    """An Ollama whose model can be changed without its weights."""

    version = "0.34.0"

    def __init__(self) -> None:
        self.stored = Shown(system="")

    def show(self, name: str) -> Shown:
        return self.stored


def test_a_model_that_was_changed_under_its_name_is_compared_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[VerifyJob] = []

    def compare(job: VerifyJob, server: object, *, emit: object) -> Verified:
        asked.append(job)
        return Verified(verdict=verdict(f16=P), evidence=Evidence())

    monkeypatch.setattr(pipeline, "verify", compare)
    monkeypatch.setattr(pipeline, "trace", lambda *_, **__: Traced(checks=(), tensors=(), blame=None))
    model = Registered(name="m:f16", quant=Quant.F16, blob_sha256="a" * 64, same_bytes=True, template_source="gguf")
    job = dataclasses.replace(JOB, ggufs=(dataclasses.replace(GGUF, path=tmp_path / "m.gguf"),), registered=(model,))
    server = Server()
    for system in ("", "", "You are a pirate."):
        server.stored = Shown(system=system)
        with Workspace(tmp_path) as workspace:
            verify_once(job, cast(OllamaServer, server), None, workspace, lambda event: None)
    assert len(asked) == 2


def test_the_check_of_a_files_tensors_stands_behind_its_structure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = verdict(f16=P, q8_0=P)
    tensors = tuple(dataclasses.replace(check, name="tensors") for check in whole.checks)
    monkeypatch.setattr(pipeline, "verify", lambda *_, **__: Verified(verdict=whole, evidence=Evidence()))
    monkeypatch.setattr(pipeline, "trace", lambda *_, **__: Traced(checks=tensors, tensors=(), blame=None))
    job = dataclasses.replace(JOB, ggufs=(dataclasses.replace(GGUF, path=tmp_path / "m.gguf"),))
    with Workspace(tmp_path) as workspace:
        found = verify_once(job, None, None, workspace, lambda event: None)
    assert [(check.subject, check.name) for check in found.checks] == [
        ("f16", "structure"),
        ("f16", "tensors"),
        ("q8_0", "structure"),
        ("q8_0", "tensors"),
    ]
