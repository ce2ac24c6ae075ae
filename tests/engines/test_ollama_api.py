"""What Ollama, or what stands in its place, can do wrong: always one line of cause, and never a traceback."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from packager.artifacts import Conversation, Message
from packager.engines import ollama_api
from packager.engines.engine import NotSupported
from packager.engines.ollama import OllamaEngine, OllamaServer
from packager.engines.ollama_api import OllamaRefused
from packager.engines.ollama_upload import CHUNK_BYTES
from packager.errors import InputInvalid, IntegrityMismatch, OllamaFailed
from packager.events import Advanced, Event, Noted
from tests.engines.ollama_faults import SHOW, Fault, faulty
from tests.ollama_server import free_port

HELLO = (Message(role="user", content="Hello"),)
PROBE = Conversation(id="hello", group="CORE", messages=HELLO)
FILE_BYTES = 3 * CHUNK_BYTES + 17
SUCCESS: list[object] = [{"status": "parsing GGUF"}, {"status": "success"}]
NEVER_JSON = {"html": b"<html>proxy error</html>", "not utf-8": b"\xff\xfe", "list": b"[1]", "deep": b"[" * 100_000}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(bytes(range(256)) * (FILE_BYTES // 256) + b"x" * (FILE_BYTES % 256))
    return path


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


class TestConnect:
    def test_nothing_listens(self) -> None:
        port = free_port()
        with pytest.raises(OllamaFailed, match=f"no Ollama answers at http://127.0.0.1:{port}") as caught:
            OllamaServer.connect(f"127.0.0.1:{port}")
        assert "ollama serve" in caught.value.hint
        assert caught.value.exit_code == 10

    @pytest.mark.parametrize("host", ["ftp://127.0.0.1", "://", "exa mple.com", "http://[::1"], ids=repr)
    def test_no_address(self, host: str) -> None:
        with pytest.raises(OllamaFailed) as caught:
            OllamaServer.connect(host)
        assert caught.value.hint

    @pytest.mark.parametrize(("version", "minimum"), [("0.29.9", "0.30.0"), ("0.11.4-rc1", "0.30.0")], ids=str)
    def test_too_old_names_both_versions(self, version: str, minimum: str) -> None:
        with faulty(Fault(version=version)) as url, pytest.raises(OllamaFailed) as caught:
            OllamaServer.connect(url)
        assert version in caught.value.message
        assert minimum in caught.value.message

    @pytest.mark.parametrize("version", ["0.30.0", "0.34.0-rc2", "1.0", "0.0.0"])
    def test_new_enough(self, version: str) -> None:
        with faulty(Fault(version=version)) as url:
            assert OllamaServer.connect(url).version == version

    def test_any_version_will_do_for_chatting(self) -> None:
        with faulty(Fault(version="0.1.0")) as url:
            assert OllamaServer.connect(url, minimum=(0,)).version == "0.1.0"

    @pytest.mark.parametrize("reply", [{}, {"version": 3}], ids=["no version", "a number"])
    def test_something_else_answers(self, reply: object) -> None:
        with (
            faulty(Fault(replies={"/api/version": (200, reply)})) as url,
            pytest.raises(OllamaFailed, match="is not Ollama"),
        ):
            OllamaServer.connect(url)

    @pytest.mark.parametrize("reply", NEVER_JSON.values(), ids=NEVER_JSON)
    def test_no_json_object(self, reply: bytes) -> None:
        fault = Fault(replies={"/api/version": (200, reply)})
        with faulty(fault) as url, pytest.raises(OllamaFailed, match="no JSON"):
            OllamaServer.connect(url)

    @pytest.mark.parametrize("status", [301, 400, 403, 404, 500, 502])
    def test_refused_by_status(self, status: int) -> None:
        fault = Fault(replies={"/api/version": (status, {"error": "go\n\x1b[31m away"})})
        with faulty(fault) as url, pytest.raises(OllamaRefused, match=r"refused: go \[31m away") as caught:
            OllamaServer.connect(url)
        assert caught.value.status == status

    def test_refusal_without_a_reason(self) -> None:
        fault = Fault(replies={"/api/version": (502, b"<html>Bad Gateway")})
        with faulty(fault) as url, pytest.raises(OllamaFailed, match="Bad Gateway"):
            OllamaServer.connect(url)

    def test_warns_about_unencrypted_networks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # The name of another machine, which the proxy below stands for.
        told: list[Event] = []
        with faulty(Fault(replies={"http://ollama.test:11434/api/version": (200, {"version": "0.34.0"})})) as url:
            monkeypatch.setenv("HTTP_PROXY", url)
            monkeypatch.setenv("http_proxy", url)
            OllamaServer.connect("ollama.test", emit=told.append)
        assert [event.warning for event in told if isinstance(event, Noted)] == [True]

    def test_a_proxy_never_sees_the_loopback(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(variable, f"http://127.0.0.1:{free_port()}")
        told: list[Event] = []
        with faulty(Fault()) as url:
            assert OllamaServer.connect(url, emit=told.append).version == "0.34.0"
        assert told == []

    def test_no_token_is_sent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OLLAMA_API_KEY", "secret")
        monkeypatch.setenv("HF_TOKEN", "secret")
        fault = Fault()
        with faulty(fault) as url:
            OllamaServer.connect(url)
        assert not any("secret" in value for headers in fault.headers for value in headers.values())
        assert not any(name in headers for headers in fault.headers for name in ("authorization", "cookie"))


class TestUpload:
    def test_a_blob_that_is_there_is_not_sent(self, file: Path) -> None:
        fault, told = Fault(blob_status=200), list[Event]()
        with faulty(fault) as url:
            assert OllamaServer.connect(url).upload(file, sha256(file), told.append) is False
        assert not [request for request in fault.requests if request.startswith("POST")]
        assert told[-1] == Advanced(stage="register", done=FILE_BYTES, total=FILE_BYTES, unit="B", detail="model.gguf")

    def test_progress_ends_at_the_size(self, file: Path) -> None:
        fault, told = Fault(), list[Event]()
        with faulty(fault) as url:
            assert OllamaServer.connect(url).upload(file, sha256(file), told.append) is True
        done = [event.done for event in told if isinstance(event, Advanced)]
        assert done == sorted(done)
        assert done[-1] == FILE_BYTES
        assert fault.bodies == [FILE_BYTES]
        assert fault.requests[-1] == f"POST /api/blobs/sha256:{sha256(file)}"

    def test_one_reset_is_survived(self, file: Path) -> None:
        fault, told = Fault(resets=1, reset_upload_after=100_000), list[Event]()
        with faulty(fault) as url:
            assert OllamaServer.connect(url).upload(file, sha256(file), told.append) is True
        assert fault.bodies == [FILE_BYTES]
        assert [event for event in told if isinstance(event, Noted) and event.warning]

    @pytest.mark.parametrize("after", [0, 1, 65536, 2 * CHUNK_BYTES], ids=str)
    def test_two_resets_name_the_file_and_how_far_it_came(self, file: Path, after: int) -> None:
        with faulty(Fault(resets=2, reset_upload_after=after)) as url, pytest.raises(OllamaFailed) as caught:
            OllamaServer.connect(url).upload(file, sha256(file))
        assert str(file) in caught.value.message
        assert f"of {FILE_BYTES} bytes" in caught.value.message

    @pytest.mark.parametrize("status", [404, 500, 507])
    def test_refused_by_status(self, file: Path, status: int) -> None:
        fault = Fault(replies={f"/api/blobs/sha256:{sha256(file)}": (status, {"error": "no space left on device"})})
        with faulty(fault) as url, pytest.raises(OllamaFailed, match="no space left on device"):
            OllamaServer.connect(url).upload(file, sha256(file))

    def test_head_that_makes_no_sense(self, file: Path) -> None:
        with faulty(Fault(blob_status=503)) as url, pytest.raises(OllamaFailed, match="503"):
            OllamaServer.connect(url).upload(file, sha256(file))

    def test_changed_file(self, file: Path) -> None:
        reply = (400, {"error": 'digest mismatch, expected "sha256:0", got "sha256:1"'})
        fault = Fault(replies={f"/api/blobs/sha256:{'0' * 64}": reply})
        with faulty(fault) as url, pytest.raises(IntegrityMismatch, match=r"model\.gguf"):
            OllamaServer.connect(url).upload(file, "0" * 64)

    def test_missing_file(self, tmp_path: Path) -> None:
        with faulty(Fault()) as url, pytest.raises(InputInvalid, match=r"gone\.gguf: No such file"):
            OllamaServer.connect(url).upload(tmp_path / "gone.gguf", "0" * 64)

    def test_file_that_shrinks_on_the_way(self, file: Path) -> None:
        def shrink(event: Event) -> None:
            with file.open("r+b") as stream:
                stream.truncate(CHUNK_BYTES)

        with faulty(Fault()) as url, pytest.raises(InputInvalid, match=f"had {FILE_BYTES} a moment ago"):
            OllamaServer.connect(url).upload(file, "0" * 64, shrink)


class TestCreate:
    def create(self, fault: Fault) -> tuple[str, ...]:
        with faulty(fault) as url:
            return OllamaServer.connect(url).create("x", files={"a.gguf": "1" * 64}, parameters={"stop": ["s"]})

    def test_success_and_what_was_asked(self) -> None:
        fault = Fault(lines={"/api/create": [*SUCCESS[:1], {}, b"\n", *SUCCESS]})
        assert self.create(fault) == ("parsing GGUF", "success")
        assert fault.bodies == [
            {"model": "x", "files": {"a.gguf": "sha256:" + "1" * 64}, "parameters": {"stop": ["s"]}}
        ]

    def test_progress(self) -> None:
        told: list[Event] = []
        line = {"status": "verifying conversion", "completed": 3, "total": 7}
        with faulty(Fault(lines={"/api/create": [line, *SUCCESS]})) as url:
            OllamaServer.connect(url).create("x", files={}, parameters={}, emit=told.append)
        assert told == [Advanced(stage="register", done=3, total=7, unit="B", detail="verifying conversion")]

    @pytest.mark.parametrize("status", [None, 400], ids=["bare", "with a status"])
    def test_error_in_band(self, status: int | None) -> None:
        error = {"error": "invalid model"} | ({"status": status} if status else {})
        with pytest.raises(OllamaRefused, match="failed: invalid model") as caught:
            self.create(Fault(lines={"/api/create": [{"status": "parsing GGUF"}, error]}))
        assert caught.value.status == (status or 500)

    def test_error_after_success_is_an_error(self) -> None:
        with pytest.raises(OllamaFailed, match="late"):
            self.create(Fault(lines={"/api/create": [*SUCCESS, {"error": "late"}]}))

    @pytest.mark.parametrize(
        ("lines", "last"),
        [
            ([], "it said nothing"),
            ([{"status": "writing manifest"}], "'writing manifest'"),
            ([{"status": 7}], "nothing"),
        ],
        ids=["no line", "no success", "status of another type"],
    )
    def test_no_success(self, lines: list[object], last: str) -> None:
        with pytest.raises(OllamaFailed, match=last) as caught:
            self.create(Fault(lines={"/api/create": lines}))
        assert caught.value.hint

    @pytest.mark.parametrize("after", [0, 1])
    def test_connection_breaks(self, after: int) -> None:
        with pytest.raises(OllamaFailed, match="broke off in /api/create"):
            self.create(Fault(lines={"/api/create": [*SUCCESS[:1], *SUCCESS]}, breaks=after))

    @pytest.mark.parametrize("line", [b"{\n", b"nonsense\n", b'"text"\n', b"[]\n"], ids=repr)
    def test_line_that_is_no_object(self, line: bytes) -> None:
        with pytest.raises(OllamaFailed, match="no JSON"):
            self.create(Fault(lines={"/api/create": [line, *SUCCESS]}))

    def test_last_line_without_its_end(self) -> None:
        assert self.create(Fault(lines={"/api/create": [b'{"status": "success"}']})) == ("success",)

    def test_endless_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ollama_api, "LINE_LIMIT_BYTES", 1 << 20)
        with pytest.raises(OllamaFailed, match="line of over 1048576 bytes"):
            self.create(Fault(endless="/api/create"))

    def test_endless_stream(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ollama_api, "REPLY_LIMIT_BYTES", 1 << 16)
        with pytest.raises(OllamaFailed, match="more than 65536 bytes"):
            self.create(Fault(lines={"/api/create": [{"status": str(number)} for number in range(10_000)]}))

    def test_endless_reply(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ollama_api, "REPLY_LIMIT_BYTES", 1 << 20)
        with faulty(Fault(endless="/api/show")) as url, pytest.raises(OllamaFailed, match="more than 1048576 bytes"):
            OllamaServer.connect(url).find("x")


class TestNames:
    def test_absent(self) -> None:
        with faulty(Fault(replies={"/api/show": (404, {"error": "model 'x' not found"})})) as url:
            server = OllamaServer.connect(url)
            assert server.find("x") is None
            assert not server.exists("x")
            with pytest.raises(OllamaFailed, match=r"x: Ollama at .* has no such model"):
                server.blob_of("x")

    def test_broken_show_is_no_absence(self) -> None:
        fault = Fault(replies={"/api/show": (500, {"error": "bad manifest"})})
        with faulty(fault) as url, pytest.raises(OllamaFailed, match="bad manifest"):
            OllamaServer.connect(url).exists("x")

    def test_present(self) -> None:
        with faulty(Fault(replies={"/api/show": (200, SHOW)})) as url:
            assert OllamaServer.connect(url).blob_of("x") == "a" * 64

    @pytest.mark.parametrize(("status", "fails"), [(200, False), (404, False), (500, True)], ids=str)
    def test_delete(self, status: int, fails: bool) -> None:
        with faulty(Fault(replies={"/api/delete": (status, {"error": "no"} if status != 200 else {})})) as url:
            server = OllamaServer.connect(url)
            if fails:
                with pytest.raises(OllamaFailed):
                    server.delete("x")
            else:
                server.delete("x")


class TestEngine:
    """Questions to servers that are older or sicker than the real one of these tests."""

    def ask(self, fault: Fault, question: str) -> object:
        with faulty(fault) as url:
            engine = OllamaEngine(OllamaServer.connect(url, minimum=(0,)), "x")
            if question == "answer":
                return engine.answer(PROBE, max_tokens=1, top_logprobs=20)
            return getattr(engine, question)(PROBE)

    @pytest.mark.parametrize("version", ["0.11.4", "0.34.0"], ids=["too old to ask", "does not know the field"])
    def test_no_debug_render(self, version: str) -> None:
        answer = {"message": {"role": "assistant", "content": "Hi"}, "done": True}
        fault = Fault(version=version, replies={"/api/chat": (200, answer)})
        found = self.ask(fault, "render")
        assert isinstance(found, NotSupported)
        assert found.code == "NO_DEBUG_RENDER"
        assert version in found.detail
        # A server that does not know the field would answer: it is asked for one token at most.
        assert all(body["options"]["num_predict"] == 1 for body in fault.bodies)

    def test_count_that_may_leave_out_the_cache(self) -> None:
        found = self.ask(Fault(lines={"/api/chat": [{"done": True, "prompt_eval_count": 3}]}), "prompt_token_count")
        assert isinstance(found, NotSupported)
        assert found.code == "NO_PROMPT_COUNT"

    def test_no_probabilities(self) -> None:
        fault = Fault(replies={"/api/generate": (200, {"response": "Hi", "done": True, "prompt_eval_count": 3})})
        with faulty(fault) as url:
            found = OllamaEngine(OllamaServer.connect(url), "x").next_token("Hello", tokens=3)
        assert isinstance(found, NotSupported)
        assert found.code == "NO_LOGPROBS"
        assert {body["options"]["seed"] for body in fault.bodies} == set(range(8))

    def test_no_tokenizer(self) -> None:
        found = self.ask(Fault(), "tokens")
        assert isinstance(found, NotSupported)
        assert found.code == "NO_TOKENIZER"

    @pytest.mark.parametrize(
        ("error", "code"),
        [
            ("Jinja Exception: only one turn", "TEMPLATE_ERROR"),
            ('{"error":{"code":400,"message":"request exceeds the available context size"}}', "CONTEXT_FULL"),
        ],
        ids=["template", "context"],
    )
    @pytest.mark.parametrize("question", ["render", "answer", "prompt_token_count"])
    def test_what_the_model_cannot_do(self, question: str, error: str, code: str) -> None:
        found = self.ask(Fault(replies={"/api/chat": (400, {"error": error})}), question)
        assert isinstance(found, NotSupported)
        assert found.code == code
        assert "{" not in found.detail

    @pytest.mark.parametrize("question", ["render", "answer"])
    @pytest.mark.parametrize(
        ("status", "error"), [(404, "model 'x' not found"), (500, "model runner has unexpectedly stopped")], ids=str
    )
    def test_what_ends_the_run(self, question: str, status: int, error: str) -> None:
        with pytest.raises(OllamaFailed, match=error):
            self.ask(Fault(replies={"/api/chat": (status, {"error": error})}), question)

    @pytest.mark.parametrize("lines", [[], [{"message": {"content": "Hal"}}]], ids=["nothing", "half"])
    def test_answer_that_breaks_off(self, lines: list[object]) -> None:
        with pytest.raises(OllamaFailed, match="middle of an answer"):
            self.ask(Fault(lines={"/api/chat": lines}), "answer")

    def test_fields_of_other_types_count_as_absent(self) -> None:
        odd = {"message": [], "logprobs": {"token": 1}, "prompt_eval_count": True, "done": True, "_debug_info": 7}
        found = self.ask(Fault(lines={"/api/chat": [odd]}), "prompt_token_count")
        assert isinstance(found, NotSupported)

    def test_options_are_greedy_and_think_is_unset(self) -> None:
        fault = Fault(lines={"/api/chat": [{"done": True, "message": {"content": "Hi"}}]})
        with faulty(fault) as url:
            assert OllamaEngine(OllamaServer.connect(url), "x").generate(PROBE, max_tokens=5) == "Hi"
        body = fault.bodies[0]
        assert body["options"]["temperature"] == 0
        assert body["options"]["repeat_penalty"] == 1
        assert body["options"]["num_predict"] == 5
        assert "think" not in body
        assert json.loads(json.dumps(body)) == body
