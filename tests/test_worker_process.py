from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from packager.worker_process import WorkerFailed, WorkerProcess

LIMIT = 1 << 20


def worker(code: str) -> WorkerProcess:
    """A worker that says it is ready and then runs `code` for every line it is asked."""
    loop = f"import sys, os, time, signal\nprint('ready', flush=True)\nfor line in sys.stdin:\n    {code}\n"
    return WorkerProcess((sys.executable, "-c", loop))


ECHO = "print(line.strip()[::-1], flush=True)"


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_each_line_is_answered_by_the_same_child() -> None:
    with worker(ECHO) as child:
        assert child.pid is None
        assert child.ask(b"abc", timeout_s=10, limit_bytes=LIMIT) == b"cba"
        pid = child.pid
        assert child.ask(b"de", timeout_s=10, limit_bytes=LIMIT) == b"ed"
        assert child.pid == pid


def test_a_child_that_was_started_ahead_is_the_one_that_answers() -> None:
    with worker(ECHO) as child:
        child.start()
        pid = child.pid
        assert pid is not None
        assert child.ask(b"abc", timeout_s=10, limit_bytes=LIMIT) == b"cba"
        child.start()
        assert child.pid == pid
    assert not alive(pid)


def test_a_child_that_was_started_and_never_asked_is_ended() -> None:
    child = worker("time.sleep(60)")
    child.start()
    pid = child.pid
    child.close()
    assert pid is not None
    assert not alive(pid)


def test_a_line_longer_than_any_pipe_gets_through() -> None:
    with worker(ECHO) as child:
        line = b"x" * 500_000 + b"y"
        assert child.ask(line, timeout_s=30, limit_bytes=LIMIT) == line[::-1]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("time.sleep(60)", "does not come to an end"),
        ("[print('x' * 9000, end='', flush=True) or time.sleep(0.05) for _ in range(99)]", "writes without end"),
        ("sys.exit(7)", r"ended the process that ran it \(status 7\)"),
        ("os.kill(os.getpid(), signal.SIGXCPU)", "uses too much processor time"),
        ("os.close(1); time.sleep(0.1); sys.exit(0)", "ended the process that ran it"),
    ],
    ids=["slow", "endless answer", "exit", "processor limit", "closed pipe"],
)  # fmt: skip
def test_a_failed_child_is_named_ended_and_started_again(code: str, message: str) -> None:
    with worker(f"exec({code!r}) if line.strip() == 'bad' else {ECHO}") as child:
        child.ask(b"ok", timeout_s=10, limit_bytes=LIMIT)
        pid = child.pid
        assert pid is not None
        with pytest.raises(WorkerFailed, match=message):
            child.ask(b"bad", timeout_s=1, limit_bytes=10_000)
        assert child.pid is None
        assert not alive(pid)
        assert child.ask(b"ok", timeout_s=10, limit_bytes=LIMIT) == b"ko"


def test_a_child_that_ends_before_it_is_ready_is_named() -> None:
    with WorkerProcess((sys.executable, "-c", "raise SystemExit(3)")) as child:
        with pytest.raises(WorkerFailed, match="status 3"):
            child.ask(b"x", timeout_s=10, limit_bytes=LIMIT)
        assert child.pid is None


def test_a_child_that_dies_between_two_questions_is_named_once() -> None:
    with worker(ECHO) as child:
        child.ask(b"ok", timeout_s=10, limit_bytes=LIMIT)
        pid = child.pid
        assert pid is not None
        os.kill(pid, 9)
        with pytest.raises(WorkerFailed, match="status -9"):
            child.ask(b"x", timeout_s=10, limit_bytes=LIMIT)
        assert child.ask(b"ok", timeout_s=10, limit_bytes=LIMIT) == b"ko"


def test_starting_does_not_count_as_answering() -> None:
    code = "import sys, time\ntime.sleep(1)\nprint('ready', flush=True)\nfor line in sys.stdin: print(1, flush=True)"
    with WorkerProcess((sys.executable, "-c", code)) as child:
        assert child.ask(b"x", timeout_s=0.9, limit_bytes=LIMIT) == b"1"


def test_close_ends_the_child_and_can_be_repeated() -> None:
    child = worker(ECHO)
    child.ask(b"ok", timeout_s=10, limit_bytes=LIMIT)
    pid = child.pid
    assert pid is not None
    child.close()
    assert not alive(pid)
    child.close()
    assert child.pid is None


def test_an_interrupt_ends_the_child() -> None:
    with worker("time.sleep(60)") as child:

        def interrupt(number: int, frame: object) -> None:
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 2)
            with pytest.raises(KeyboardInterrupt):
                child.ask(b"x", timeout_s=60, limit_bytes=LIMIT)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert child.pid is None


def test_the_child_sees_little_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("TZ", "UTC")
    with worker("print(' '.join(sorted(os.environ)), flush=True)") as child:
        names = child.ask(b"x", timeout_s=10, limit_bytes=LIMIT).decode().split()
    assert "TZ" in names
    assert "HF_TOKEN" not in names
    assert "HOME" not in names


def test_a_child_ends_with_its_parents_pipe() -> None:
    child = worker(ECHO)
    child.ask(b"ok", timeout_s=10, limit_bytes=LIMIT)
    process = child._child
    assert process is not None
    assert process.stdin is not None
    process.stdin.close()
    deadline = time.monotonic() + 10
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.returncode == 0
    child.close()
