"""What a server is asked, word by word, and how its plain answers are read; its bad days are in test_ollama_api."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from packager.artifacts import Message
from packager.engines.ollama_api import OllamaApi, OllamaRefused
from packager.engines.ollama_server import OllamaServer
from packager.errors import InputInvalid, OllamaFailed
from packager.events import Advanced, Event, Noted
from packager.formats.model_name import ModelName
from tests.engines.ollama_faults import SHOW, Fault, faulty

TURNS = (Message(role="system", content="Be brief."), Message(role="user", content="Hi"))
TURNS_SENT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
ABSENT = {"/api/show": (404, {"error": "model 'x' not found"})}


@contextmanager
def connected(fault: Fault) -> Iterator[OllamaServer]:
    with faulty(fault) as url:
        yield OllamaServer.connect(url, minimum=(0,))


class TestVersion:
    @pytest.mark.parametrize(
        ("version", "enough"),
        [
            pytest.param("0.30.0", True, id="the minimum itself"),
            pytest.param("0.30.0-rc1", True, id="a candidate of the minimum"),
            pytest.param("0.100.0", True, id="numbers are no text"),
            pytest.param("1.0.0", True, id="a new major version"),
            pytest.param("0.0.0", True, id="a development build"),
            pytest.param("0.0.0-dirty", True, id="a development build with a suffix"),
            pytest.param("0.29.99", False, id="just before"),
            pytest.param("0.9.0", False, id="a single digit is less"),
            pytest.param("0.0.1", False, id="nearly a development build"),
            pytest.param("0.29.9-rc30.0.0", False, id="numbers in a suffix"),
        ],
    )
    def test_is_compared_by_numbers(self, version: str, enough: bool) -> None:
        with connected(Fault(version=version)) as server:
            if enough:
                server.require((0, 30, 0))
            else:
                with pytest.raises(OllamaFailed, match=r"older than 0\.30\.0") as caught:
                    server.require((0, 30, 0))
                assert f"{server.url} is version {version}," in caught.value.message
                assert caught.value.hint == "Install a newer Ollama."

    def test_connecting_asks_for_nothing_else(self) -> None:
        fault = Fault(version="0.29.0")
        with faulty(fault) as url, pytest.raises(OllamaFailed, match=r"version 0\.29\.0, older than 0\.30\.0"):
            OllamaServer.connect(url)
        assert fault.requests == ["GET /api/version"]

    def test_the_environment_names_the_server(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with faulty(Fault(version="0.31.4")) as url:
            monkeypatch.setenv("OLLAMA_HOST", url)
            server = OllamaServer.connect()
            assert (server.url, server.version) == (url, "0.31.4")


@pytest.mark.parametrize(
    ("host", "warned"),
    [
        pytest.param("example.com", True, id="a name"),
        pytest.param("http://192.0.2.1:80", True, id="an address"),
        pytest.param("[2001:db8::1]", True, id="an IPv6 address"),
        pytest.param("https://example.com", False, id="encrypted"),
        pytest.param("localhost", False, id="localhost"),
        pytest.param("127.8.8.8:1", False, id="loopback"),
        pytest.param("[::1]", False, id="IPv6 loopback"),
        pytest.param("", False, id="unset"),
    ],
)
def test_only_an_unencrypted_network_is_warned_about(monkeypatch: pytest.MonkeyPatch, host: str, warned: bool) -> None:
    told: list[Event] = []
    monkeypatch.setattr(OllamaApi, "get", lambda *_: {"version": f"0.34.{len(told)}"})
    server = OllamaServer.connect(host, emit=told.append)
    assert [(event.stage, event.warning, server.url in event.text) for event in told if isinstance(event, Noted)] == (
        [("ollama", True, True)] if warned else []
    )
    assert server.version == f"0.34.{int(warned)}", "the warning comes before anything is sent"


class TestStored:
    @pytest.mark.parametrize("name", ["x:f16", ModelName.parse("x:f16")], ids=["text", "name"])
    def test_is_asked_for_by_its_name(self, name: ModelName | str) -> None:
        fault = Fault(replies={"/api/show": (200, SHOW)})
        with connected(fault) as server:
            found = server.find(name)
            assert found == server.show(name)
            assert server.exists(name) is True
            assert server.blob_of(name) == "a" * 64
        assert found is not None
        assert (found.name, found.blob_sha256, found.template) == (str(name), "a" * 64, "{{ messages }}")
        assert fault.requests[1:] == ["POST /api/show"] * 4
        assert fault.bodies == [{"model": str(name)}] * 4

    @pytest.mark.parametrize("question", ["show", "blob_of"])
    def test_absent_is_an_error_where_it_is_needed(self, question: str) -> None:
        with connected(Fault(replies=ABSENT)) as server:
            assert server.find("x") is None
            assert server.exists("x") is False
            with pytest.raises(OllamaFailed) as caught:
                getattr(server, question)("x")
        assert caught.value.message == f"x: Ollama at {server.url} has no such model"
        assert caught.value.hint == "See `ollama list`."


class TestLoaded:
    @pytest.mark.parametrize(
        ("name", "tokens"),
        [("a", 2048), ("A:latest", 2048), ("a:other", None), ("b", None), ("c", None)],
        ids=["short name", "other case", "another tag", "not said", "not loaded"],
    )
    def test_the_context_of_a_loaded_model(self, name: str, tokens: int | None) -> None:
        loaded = [{"name": "a:latest", "context_length": 2048}, {"name": "b:latest"}]
        with connected(Fault(replies={"/api/ps": (200, {"models": loaded})})) as server:
            assert server.loaded_context(name) == tokens
            assert server.is_local

    def test_nothing_is_loaded(self) -> None:
        with connected(Fault(replies={"/api/ps": (200, {"models": None})})) as server:
            assert server.loaded_context("a") is None


class TestNames:
    def test_copy_says_from_and_to(self) -> None:
        fault = Fault()
        with connected(fault) as server:
            server.copy("a:1", ModelName.parse("b:2"))
        assert fault.requests[1:] == ["POST /api/copy"]
        assert fault.bodies == [{"source": "a:1", "destination": "b:2"}]

    def test_copy_of_what_is_not_there_is_an_error(self) -> None:
        fault = Fault(replies={"/api/copy": (404, {"error": 'model "a" not found'})})
        with connected(fault) as server, pytest.raises(OllamaRefused, match='model "a" not found'):
            server.copy("a", "b")

    def test_delete_names_the_model(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sent: list[tuple[Any, ...]] = []

        def send(_: OllamaApi, *request: Any) -> dict[str, Any]:
            sent.append(request)
            return {}

        monkeypatch.setattr(OllamaApi, "send", send)
        with connected(Fault()) as server:
            server.delete(ModelName.parse("b:2"))
        assert sent == [("DELETE", "/api/delete", {"model": "b:2"})]

    def test_delete_of_what_is_not_there_was_asked_and_is_fine(self) -> None:
        fault = Fault(replies={"/api/delete": (404, {"error": "not found"})})
        with connected(fault) as server:
            server.delete("x")
        assert fault.requests[1:] == ["DELETE /api/delete"]


@pytest.mark.parametrize(("status", "sent"), [(200, False), (404, True)], ids=["there", "not there"])
def test_a_blob_is_sent_only_where_it_is_missing(tmp_path: Path, status: int, sent: bool) -> None:
    file, told, fault = tmp_path / "x.gguf", list[Event](), Fault(blob_status=status)
    file.write_bytes(b"GGUF1234")
    sha256 = hashlib.sha256(b"GGUF1234").hexdigest()
    with connected(fault) as server:
        assert server.upload(file, sha256, told.append, stage="chat") is sent
    blob = f"/api/blobs/sha256:{sha256}"
    assert fault.requests[1:] == [f"HEAD {blob}"] + [f"POST {blob}"] * sent
    assert fault.bodies == [8] * sent
    assert told == [Advanced(stage="chat", done=8, total=8, unit="B", detail="x.gguf")]


class TestCreate:
    @pytest.mark.parametrize(
        ("license_text", "more"),
        [(None, {}), ("", {}), ("MIT", {"license": "MIT"})],
        ids=["none", "empty", "a licence"],
    )
    def test_says_everything_at_once(self, license_text: str | None, more: dict[str, str]) -> None:
        fault = Fault(lines={"/api/create": [{"status": "success"}]})
        with connected(fault) as server:
            server.create(
                ModelName.parse("x:f16"),
                files={"a.gguf": "1" * 64, "b.gguf": "2" * 64},
                parameters={"stop": ["<a>", "<b>"], "num_ctx": 4096},
                license_text=license_text,
            )
        assert fault.bodies == [
            {
                "model": "x:f16",
                "files": {"a.gguf": "sha256:" + "1" * 64, "b.gguf": "sha256:" + "2" * 64},
                "parameters": {"stop": ["<a>", "<b>"], "num_ctx": 4096},
            }
            | more
        ]

    def create(self, *lines: object, told: list[Event] | None = None) -> tuple[str, ...]:
        emit = (told if told is not None else []).append
        with connected(Fault(lines={"/api/create": list(lines)})) as server:
            return server.create("x", files={}, parameters={}, emit=emit)

    def test_gives_each_word_once_and_each_advance(self) -> None:
        told: list[Event] = []
        copying = [{"status": "copying", "completed": done, "total": 9} for done in (0, 4, 9)]
        said = self.create({"status": "parsing"}, *copying, {"status": "parsing"}, {"status": "success"}, told=told)
        assert said == ("parsing", "copying", "parsing", "success")
        assert told == [
            Advanced(stage="register", done=done, total=9, unit="B", detail="copying") for done in (0, 4, 9)
        ]

    def test_an_error_among_the_lines_carries_its_status(self) -> None:
        with pytest.raises(OllamaRefused, match="failed: unsupported architecture") as caught:
            self.create({"status": "parsing"}, {"error": "unsupported architecture", "status": 422})
        assert caught.value.status == 422

    @pytest.mark.parametrize(
        ("words", "last"),
        [
            pytest.param([], "it said nothing", id="no word"),
            pytest.param(["parsing", "writing manifest"], "its last word was 'writing manifest'", id="no success"),
            pytest.param(["success", "removing"], "its last word was 'removing'", id="more after success"),
        ],
    )
    def test_success_must_be_the_last_word(self, words: list[str], last: str) -> None:
        with pytest.raises(OllamaFailed) as caught:
            self.create(*({"status": word} for word in words))
        assert caught.value.message.startswith("x: Ollama at http://127.0.0.1:")
        assert caught.value.message.endswith(f"stopped before the model was made; {last}")


class TestRender:
    def render(self, reply: object, version: str = "0.34.0") -> tuple[str | None, Fault]:
        fault = Fault(version=version, replies={"/api/chat": (200, reply)})
        with connected(fault) as server:
            return server.render("x", TURNS), fault

    @pytest.mark.parametrize("version", ["0.11.5", "0.0.0"], ids=["the first that can", "a development build"])
    def test_the_prompt_is_asked_for_and_no_answer(self, version: str) -> None:
        text, fault = self.render({"_debug_info": {"rendered_template": "<s>Hi"}}, version)
        assert text == "<s>Hi"
        assert fault.bodies == [
            {
                "model": "x",
                "messages": TURNS_SENT,
                "options": {"num_predict": 1},
                "truncate": False,
                "stream": False,
                "_debug_render_only": True,
            }
        ]

    def test_an_empty_prompt_is_one(self) -> None:
        assert self.render({"_debug_info": {"rendered_template": ""}})[0] == ""

    @pytest.mark.parametrize(
        "reply",
        [{"message": {"content": "H"}, "done": True}, {"_debug_info": {}}, {"_debug_info": {"rendered_template": 1}}],
        ids=["an answer instead", "no text", "no string"],
    )
    def test_none_where_the_field_is_missing(self, reply: object) -> None:
        assert self.render(reply)[0] is None

    def test_too_old_a_server_is_not_even_asked(self) -> None:
        text, fault = self.render({"_debug_info": {"rendered_template": "<s>Hi"}}, "0.11.4")
        assert text is None
        assert fault.requests == ["GET /api/version"]

    def test_a_refusal_is_told(self) -> None:
        fault = Fault(replies={"/api/chat": (400, {"error": "jinja: only one turn"})})
        with connected(fault) as server, pytest.raises(OllamaRefused, match="only one turn"):
            server.render("x", TURNS)


def test_a_file_that_is_gone_is_named_although_ollama_has_its_blob(tmp_path: Path) -> None:
    with faulty(Fault(blob_status=200)) as url, pytest.raises(InputInvalid, match="gone"):
        OllamaServer.connect(url).upload(tmp_path / "gone.gguf", "0" * 64)


@pytest.mark.parametrize(("version", "minimum"), [("0.30", (0, 30, 0)), ("dev", (0,))], ids=["two-numbers", "none"])
def test_a_short_version_is_filled_up(version: str, minimum: tuple[int, ...]) -> None:
    with faulty(Fault(version=version)) as url:
        assert OllamaServer.connect(url, minimum=minimum).version == version
