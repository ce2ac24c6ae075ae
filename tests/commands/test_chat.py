"""`packager chat` as a user runs it: a process of its own, on a pipe and on a real terminal."""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from packager.artifacts import Gguf, Modelfile, OllamaParameters
from packager.engines.ollama import OllamaServer
from packager.formats.model_name import ModelName
from packager.formats.modelfile import render_modelfile
from packager.stages.register import RegisterJob, register
from tests.engines.ollama_faults import SHOW, Fault, faulty
from tests.run_packager import error_lines, run_packager

# A few words, and always the same.
GREEDY = OllamaParameters(stop=("<|im_end|>", ".", "!", "?", ","), num_ctx=1024, temperature=0.0)
NAME = "chat-test:q4_k_m"
ECHO = {
    "/api/chat": [
        {"message": {"role": "assistant", "content": "A\x1b[31mB"}},
        {"message": {"role": "assistant", "content": "é\n"}, "done": True},
    ]
}
_TIMEOUT_S = 120.0


@pytest.fixture(scope="module")
def served(ollama_url: str, chat_gguf: Gguf) -> Iterator[str]:
    """Address of a server that has the model under NAME."""
    server = OllamaServer.connect(ollama_url)
    modelfile = Modelfile(gguf="x", parameters=GREEDY, license_text=None)
    register(RegisterJob(gguf=chat_gguf, modelfile=modelfile, name=ModelName.parse(NAME), replace=True), server)
    yield ollama_url
    server.delete(NAME)


@pytest.fixture(scope="module")
def folder(chat_gguf: Gguf, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build folder with one GGUF and its Modelfile."""
    folder = tmp_path_factory.mktemp("chat") / "out"
    folder.mkdir()
    shutil.copy(chat_gguf.path, folder)
    text = render_modelfile(Modelfile(gguf=chat_gguf.path.name, parameters=GREEDY, license_text=None))
    (folder / "Modelfile").write_text(text, encoding="utf-8")
    return folder


def fault(**changes: object) -> Fault:
    return Fault(replies={"/api/show": (200, SHOW)}, lines=dict(ECHO), **changes)  # type: ignore[arg-type]


class TestOllama:
    def test_one_line_from_a_pipe(self, served: str) -> None:
        done = run_packager("chat", NAME, ollama=served, text="Say hello.\n")
        assert done.code == 0, done.err
        assert done.out.strip()
        assert "<|im_end|>" not in done.out
        assert f"{NAME} in Ollama" in done.err

    def test_one_shot_is_the_same_answer(self, served: str) -> None:
        piped = run_packager("chat", NAME, ollama=served, text="Say hello.\n")
        asked = run_packager("chat", NAME, "-p", "Say hello.", ollama=served)
        assert asked.code == 0
        assert asked.out == piped.out

    def test_quant_is_a_tag(self, served: str) -> None:
        done = run_packager("chat", "chat-test", "--quant", "q4_k_m", "-p", "Hi", ollama=served)
        assert done.code == 0, done.err

    def test_turns_are_remembered(self) -> None:
        trouble = fault()
        with faulty(trouble) as url:
            done = run_packager("chat", "x", "--system", "Be brief.", ollama=url, text="one\n\n  \ntwo\n/bye\nthree\n")
        assert done.code == 0, done.err
        chats = [body["messages"] for body in trouble.bodies if "messages" in body]
        assert [[(turn["role"], turn["content"]) for turn in turns] for turns in chats] == [
            [("system", "Be brief."), ("user", "one")],
            [("system", "Be brief."), ("user", "one"), ("assistant", "A\x1b[31mBé\n"), ("user", "two")],
        ]

    def test_an_answer_cannot_steer_the_terminal(self) -> None:
        with faulty(fault()) as url:
            assert run_packager("chat", "x", "-p", "Hi", ollama=url).out == "A[31mBé\n\n"

    def test_thinking_is_not_the_answer(self) -> None:
        trouble = fault()
        trouble.lines["/api/chat"] = [
            {"message": {"role": "assistant", "thinking": "Hm."}},
            {"message": {"role": "assistant", "content": "Yes"}, "done": True},
        ]
        with faulty(trouble) as url:
            done = run_packager("chat", "x", "-p", "Hi", ollama=url)
        assert done.out == "Yes\n"
        assert "Hm." in done.err

    def test_an_old_server_will_do(self) -> None:
        with faulty(fault(version="0.5.0")) as url:
            assert run_packager("chat", "x", "-p", "Hi", ollama=url).code == 0


class TestEmbedded:
    def test_folder(self, folder: Path) -> None:
        done = run_packager("chat", folder, "--quant", "q4_k_m", "-p", "Say hello.")
        assert done.code == 0, done.err
        assert done.out.strip()
        assert "." not in done.out  # the Modelfile's stop
        assert "embedded llama.cpp" in done.err

    def test_file_and_pipe(self, folder: Path) -> None:
        file = next(folder.glob("*.gguf"))
        done = run_packager("chat", "--engine", "embedded", file, text="Say hello.\n")
        assert done.code == 0, done.err
        assert done.out == run_packager("chat", folder, "-p", "Say hello.").out


BAD = {
    "nobody listens": (["packy"], 10, "no Ollama answers at http://127.0.0.1:9", "packager chat DIR"),
    "no name": (["a b"], 2, "'a b' is no name", "Use letters"),
    "folder as a name": (["--engine", "ollama", "./out"], 2, "'./out' is no name", "Use letters"),
    "no such folder": (["--engine", "embedded", "./nowhere"], 3, "nowhere", ""),
    "no such file": (["nowhere.gguf"], 3, "nowhere.gguf", ""),
    "empty folder": (["empty"], 3, "empty: no GGUF file", "packager build"),
    "no such quant": (["two", "--quant", "f16"], 3, "two: no f16 GGUF file", "packager build"),
    "several files": (["two"], 2, "two has 2 GGUF files", "packager chat two/a-Q4_K_M.gguf"),
    "broken Modelfile": (["broken"], 3, "Modelfile", ""),
}


@pytest.mark.parametrize(("arguments", "code", "cause", "hint"), BAD.values(), ids=BAD)
def test_bad_input(tmp_path: Path, arguments: list[str], code: int, cause: str, hint: str) -> None:
    for name in ("empty", "two", "broken"):
        (tmp_path / name).mkdir()
    for name in ("two/a-Q4_K_M.gguf", "two/a-Q8_0.gguf", "broken/a.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    (tmp_path / "broken/Modelfile").write_text("NONSENSE\n")
    done = run_packager("chat", *arguments, "-p", "Hi", cwd=tmp_path)
    assert done.code == code, done.err
    lines = error_lines(done)
    assert cause in lines[0]
    assert hint in "".join(lines[1:])


def test_a_model_that_is_not_there(ollama_url: str) -> None:
    done = run_packager("chat", "nobody", "-p", "Hi", ollama=ollama_url)
    assert done.code == 10
    assert "nobody:latest: Ollama at" in error_lines(done)[0]


def test_ollama_dies_in_the_middle_of_an_answer() -> None:
    with faulty(fault(breaks=1)) as url:
        done = run_packager("chat", "x", "-p", "Hi", ollama=url)
    assert done.code == 10
    assert done.out == "A[31mB\n"
    assert "broke off" in error_lines(done)[0]


class TestTerminal:
    """Typed on a pseudo-terminal."""

    def test_prompt_answer_and_end(self) -> None:
        with faulty(fault()) as url, typed(url, "x") as terminal:
            terminal.until(">>> ")
            terminal.write("hello\n")
            terminal.until("A[31mB")
            terminal.until(">>> ")
            terminal.write("\x04")
            assert terminal.wait() == 0

    def test_ctrl_c_at_the_prompt_says_how_to_end(self) -> None:
        with faulty(fault()) as url, typed(url, "x") as terminal:
            terminal.until(">>> ")
            terminal.press_until("\x03", "/bye")
            terminal.until(">>> ")
            terminal.write("/bye\n")
            assert terminal.wait() == 0

    def test_ctrl_c_stops_the_answer_and_keeps_the_session(self, served: str) -> None:
        with typed(served, NAME) as terminal:
            terminal.until(">>> ")
            terminal.write("Count from one to one thousand, with commas.\n")
            terminal.until_more()
            terminal.write("\x03")
            terminal.until(">>> ")
            terminal.write("/bye\n")
            assert terminal.wait() == 0


class Terminal:
    """The master side of a pseudo-terminal with a process on it."""

    def __init__(self, child: subprocess.Popen[bytes], master: int) -> None:
        self._child, self._master, self._read = child, master, b""

    def write(self, text: str) -> None:
        os.write(self._master, text.encode())

    def until(self, text: str) -> None:
        """Read until a text appears, and forget everything up to it."""
        deadline = time.monotonic() + _TIMEOUT_S
        while text.encode() not in self._read:
            self._more(deadline)
        self._read = self._read.partition(text.encode())[2]

    def press_until(self, key: str, text: str) -> None:
        """Press a key until a text appears: readline may miss a signal between its prompt and its first wait."""
        deadline = time.monotonic() + _TIMEOUT_S
        while text.encode() not in self._read and time.monotonic() < deadline:
            self.write(key)
            ready, _, _ = select.select([self._master], [], [], 2)
            if ready:
                self._read += os.read(self._master, 65536)
        self.until(text)

    def until_more(self) -> None:
        """Read until the answer has begun: something after the end of the line that was typed."""
        self.until("\n")
        deadline = time.monotonic() + _TIMEOUT_S
        while not self._read.strip():
            self._more(deadline)

    def wait(self) -> int:
        return self._child.wait(timeout=_TIMEOUT_S)

    def _more(self, deadline: float) -> None:
        ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"nothing more came after {self._read!r}"
        self._read += os.read(self._master, 65536)


@contextmanager
def typed(ollama: str, *arguments: str) -> Iterator[Terminal]:
    """Run `packager chat` on a terminal; killed at the end if it has not ended."""
    master, slave = pty.openpty()
    environment = {**os.environ, "OLLAMA_HOST": ollama, "NO_COLOR": "1", "TERM": "dumb"}

    def own_terminal() -> None:
        import fcntl
        import termios

        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    child = subprocess.Popen(
        [sys.executable, "-m", "packager", "chat", *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment,
        preexec_fn=own_terminal,  # noqa: PLW1509  # nothing else gives a child a terminal that sends it Ctrl-C
    )
    os.close(slave)
    try:
        yield Terminal(child, master)
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        os.close(master)
