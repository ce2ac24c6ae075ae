"""Registering, on a real server with a real file; a faulty one only for what the real one does not do on demand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from packager.artifacts import Gguf, Modelfile, OllamaParameters, Quant, Registered
from packager.engines.ollama import OllamaServer
from packager.errors import InputInvalid, IntegrityMismatch, OllamaFailed
from packager.events import Advanced, Event, Noted, StageFinished, StageStarted
from packager.formats.model_name import ModelName
from packager.stages.register import RegisterJob, read_back, refuse_taken_name, register
from tests.engines.ollama_faults import SHOW, Fault, faulty
from tests.ollama_server import described, packaged_gguf, write_gguf

NAME = ModelName.parse("register-test:q8_0")
EVERY_PARAMETER = OllamaParameters(
    stop=("<|im_end|>", "\n用户\u3000:", 'a"""\nSYSTEM x'),
    num_ctx=131072,
    temperature=0.7,
    top_k=40,
    top_p=0.95,
    min_p=1e-05,
    repeat_penalty=1.05,
)
LICENCE = 'MIT "as is"\n\nSYSTEM no\nRENDERER no\n"""\n'


@pytest.fixture
def server(ollama_url: str) -> Iterator[OllamaServer]:
    server = OllamaServer.connect(ollama_url)
    yield server
    for name in names(server):
        if name.startswith("register-test"):
            server.delete(name)


@pytest.fixture
def job(chat_gguf: Gguf) -> RegisterJob:
    modelfile = Modelfile(gguf=chat_gguf.path.name, parameters=EVERY_PARAMETER, license_text=LICENCE)
    return RegisterJob(gguf=chat_gguf, modelfile=modelfile, name=NAME, replace=False)


def names(server: OllamaServer) -> list[str]:
    import httpx

    models = httpx.get(f"{server.url}/api/tags", trust_env=False).json()["models"]
    return sorted(model["name"] for model in models)


def changed(job: RegisterJob, **parameters: object) -> RegisterJob:
    new = replace(job.modelfile.parameters, **parameters)  # type: ignore[arg-type]
    return replace(job, modelfile=replace(job.modelfile, parameters=new))


def test_everything_is_stored_as_given(job: RegisterJob, server: OllamaServer) -> None:
    result = register(job, server)
    assert result == Registered(
        name=str(NAME),
        quant=Quant.Q4_K_M,
        blob_sha256=job.gguf.sha256,
        same_bytes=True,
        template_source="gguf",
    )
    stored = server.show(NAME)
    assert dict(stored.parameters) == {
        "stop": EVERY_PARAMETER.stop,
        "num_ctx": (131072.0,),
        "temperature": (0.7,),
        "top_k": (40.0,),
        "top_p": (0.95,),
        "min_p": (1e-05,),
        "repeat_penalty": (1.05,),
    }
    assert stored.license_text == LICENCE
    assert stored.renderer is None
    assert not stored.has_go_template
    assert [name for name in names(server) if name.startswith("register-test")] == [str(NAME)]


def test_nothing_but_the_weights(job: RegisterJob, server: OllamaServer) -> None:
    bare = replace(job, modelfile=Modelfile(gguf="x", parameters=OllamaParameters(), license_text=None))
    register(bare, server)
    stored = server.show(NAME)
    assert stored.parameters == ()
    assert stored.license_text == ""


def test_events(job: RegisterJob, server: OllamaServer) -> None:
    told: list[Event] = []
    register(job, server, emit=told.append)
    assert isinstance(told[0], StageStarted)
    assert str(NAME) in told[0].title
    assert isinstance(told[-1], StageFinished)
    assert not told[-1].reused
    uploads = [event for event in told if isinstance(event, Advanced) and event.detail == job.gguf.path.name]
    assert uploads[-1].done == uploads[-1].total == job.gguf.size_bytes
    assert not [event for event in told if isinstance(event, Noted)]


def test_again_does_nothing(job: RegisterJob, server: OllamaServer) -> None:
    first, told = register(job, server), list[Event]()
    assert register(job, server, emit=told.append) == first
    assert isinstance(told[-1], StageFinished)
    assert told[-1].reused
    assert not [event for event in told if isinstance(event, Advanced)]


DIFFERENT = {
    "a parameter": {"temperature": 0.8},
    "a parameter less": {"top_k": None},
    "other stops": {"stop": ("<|im_end|>",)},
    "order of stops": {"stop": EVERY_PARAMETER.stop[::-1]},
}


@pytest.mark.parametrize("difference", DIFFERENT.values(), ids=DIFFERENT)
def test_a_taken_name_is_kept_unless_replaced(
    job: RegisterJob, server: OllamaServer, difference: dict[str, object]
) -> None:
    register(job, server)
    before = server.show(NAME)
    other = changed(job, **difference)
    with pytest.raises(OllamaFailed, match=str(NAME)) as caught:
        register(other, server)
    assert "--replace" in caught.value.hint
    assert server.show(NAME) == before
    register(replace(other, replace=True), server)
    assert server.show(NAME).parameters != before.parameters


def test_another_licence_is_another_model(job: RegisterJob, server: OllamaServer) -> None:
    register(job, server)
    with pytest.raises(OllamaFailed, match="exists"):
        register(replace(job, modelfile=replace(job.modelfile, license_text="MIT")), server)


def test_a_template_that_ollama_knows(job: RegisterJob, server: OllamaServer) -> None:
    # The file as its authors made it: Ollama recognises the template, wrongly (the default system prompt gets lost).
    register(job, server)
    before = server.show(NAME)
    raw = replace(job, gguf=described(packaged_gguf()), replace=True)
    with pytest.raises(OllamaFailed, match="AUTODETECT") as caught:
        register(raw, server)
    assert "'chatml'" in caught.value.message
    assert raw.gguf.path.name in caught.value.message
    assert server.show(NAME) == before  # what was there is still there
    assert [name for name in names(server) if name.startswith("register-test")] == [str(NAME)]


def test_a_file_without_a_template(job: RegisterJob, server: OllamaServer, tmp_path: Path) -> None:
    empty = write_gguf(tmp_path / "empty.gguf", template=None, keep_template=False)
    with pytest.raises(InputInvalid, match=r"empty\.gguf: Ollama finds no chat template"):
        register(replace(job, gguf=empty), server)
    assert not server.exists(NAME)


def test_other_bytes_are_told(job: RegisterJob, server: OllamaServer, tmp_path: Path) -> None:
    # Not in the layout that llama.cpp copies unchanged.
    draft = write_gguf(tmp_path / "draft.gguf", as_copied=False)
    told: list[Event] = []
    result = register(replace(job, gguf=draft), server, emit=told.append)
    assert not result.same_bytes
    assert result.blob_sha256 != draft.sha256
    warnings = [event.text for event in told if isinstance(event, Noted) and event.warning]
    assert len(warnings) == 1
    assert "draft.gguf" in warnings[0]


def test_a_name_ollama_knows_in_other_letters(job: RegisterJob, server: OllamaServer) -> None:
    register(job, server)
    shouted = replace(changed(job, top_k=3), name=ModelName.parse(str(NAME).upper()))
    with pytest.raises(OllamaFailed, match="exists"):
        register(shouted, server)


def test_a_tag_as_long_as_it_may_be(job: RegisterJob, server: OllamaServer) -> None:
    long = replace(job, name=NAME.with_tag("t" * 80))
    assert register(long, server).name == f"register-test:{'t' * 80}"
    assert [name for name in names(server) if name.startswith("register-test")] == [f"register-test:{'t' * 80}"]


class TestEarlyCheck:
    """`refuse_taken_name`, which runs before the long part of a build."""

    def test_free(self, server: OllamaServer) -> None:
        refuse_taken_name(NAME, server, replace=False)

    def test_taken(self, job: RegisterJob, server: OllamaServer) -> None:
        register(job, server)
        with pytest.raises(OllamaFailed, match="exists"):
            refuse_taken_name(NAME, server, replace=False)
        with pytest.raises(OllamaFailed, match="exists"):
            refuse_taken_name(NAME, server, replace=False, ours=("0" * 64,))
        refuse_taken_name(NAME, server, replace=True)
        refuse_taken_name(NAME, server, replace=False, ours=("0" * 64, job.gguf.sha256))


def test_read_back_of_what_is_not_there(job: RegisterJob, server: OllamaServer) -> None:
    with pytest.raises(OllamaFailed, match="no such model"):
        read_back(NAME, job.gguf, server)


class TestFaults:
    """A name must not appear, nor change, when Ollama fails on the way."""

    def fail(self, fault: Fault, job: RegisterJob) -> OllamaFailed:
        fault.replies.setdefault("/api/show", (404, {"error": "not found"}))
        with faulty(fault) as url, pytest.raises(OllamaFailed) as caught:
            register(job, OllamaServer.connect(url))
        assert "POST /api/copy" not in fault.requests
        return caught.value

    def test_dies_in_mid_upload(self, job: RegisterJob) -> None:
        error = self.fail(Fault(resets=2, reset_upload_after=1 << 20), job)
        assert job.gguf.path.name in error.message
        assert str(job.gguf.size_bytes) in error.message

    @pytest.mark.parametrize(
        "lines",
        [[{"error": "disk full"}], [{"status": "writing manifest"}], []],
        ids=["error in band", "no success", "nothing"],
    )
    def test_create_fails(self, job: RegisterJob, lines: list[object]) -> None:
        fault = Fault(blob_status=200, lines={"/api/create": lines})
        self.fail(fault, job)
        assert fault.requests[-1] == "DELETE /api/delete"  # nothing is left under the name beside

    def test_forced_renderer(self, job: RegisterJob) -> None:
        # What 0.34 does to a gemma4, laguna or nemotron_h model (server/create.go).
        show = {**SHOW, "modelfile": str(SHOW["modelfile"]) + "RENDERER gemma4\nPARSER gemma4\n"}
        fault = Fault(blob_status=200, lines={"/api/create": [{"status": "success"}]})
        fault.replies["/api/show"] = (200, show)
        error = self.fail(fault, replace(job, replace=True))
        assert "RENDERER_FORCED" in error.message
        assert "gemma4" in error.message

    def test_file_changed_since_it_was_hashed(self, job: RegisterJob, server: OllamaServer, tmp_path: Path) -> None:
        path = tmp_path / "changed.gguf"
        path.write_bytes(b"GGUF")
        with pytest.raises(IntegrityMismatch, match=r"changed\.gguf"):
            register(replace(job, gguf=replace(job.gguf, path=path, sha256="1" * 64)), server)
        assert not server.exists(NAME)

    def test_file_gone(self, job: RegisterJob, server: OllamaServer, tmp_path: Path) -> None:
        gone = replace(job.gguf, path=tmp_path / "gone.gguf", sha256="2" * 64)
        with pytest.raises(InputInvalid, match=r"gone\.gguf"):
            register(replace(job, gguf=gone), server)
