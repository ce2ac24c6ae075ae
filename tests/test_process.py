from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from packager.errors import ToolMissing
from packager.process import ProcessFailed, run_process


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_lines_of_both_streams_arrive_without_their_ends(tmp_path: Path) -> None:
    lines: list[str] = []
    code = "import sys; print('one', flush=True); print('two', file=sys.stderr)"
    run_process(python(code), on_line=lines.append, log=tmp_path / "log")
    assert lines == ["one", "two"]
    assert (tmp_path / "log").read_text() == "one\ntwo\n"


def test_environment_and_folder_are_the_callers(tmp_path: Path) -> None:
    lines: list[str] = []
    code = "import os; print(os.getcwd(), os.environ['PACKAGER_X'], 'PATH' in os.environ)"
    run_process(python(code), cwd=tmp_path, env={"PACKAGER_X": "y"}, on_line=lines.append)
    assert lines == [f"{tmp_path} y True"]


def test_a_failure_shows_command_status_last_lines_and_log(tmp_path: Path) -> None:
    code = "import sys; [print('line', n) for n in range(30)]; sys.exit(7)"
    with pytest.raises(ProcessFailed) as caught:
        run_process(python(code), log=tmp_path / "log")
    message = caught.value.message.splitlines()
    assert "status 7" in message[0]
    assert sys.executable in message[0]
    assert message[1:] == [f"  | line {n}" for n in range(10, 30)]
    assert str(tmp_path / "log") in caught.value.hint


def test_a_killed_child_is_said_to_be_killed() -> None:
    with pytest.raises(ProcessFailed, match="killed by signal 9"):
        run_process(python("import os; os.kill(os.getpid(), 9)"))


def test_a_missing_program_is_a_missing_tool() -> None:
    with pytest.raises(ToolMissing, match="no-such-program"):
        run_process(["no-such-program"])


def test_an_argument_is_never_seen_by_a_shell() -> None:
    lines: list[str] = []
    run_process([*python("import sys; print(sys.argv[1])"), "$(echo x); rm -rf *"], on_line=lines.append)
    assert lines == ["$(echo x); rm -rf *"]


def test_stopping_a_child_stops_what_it_started(tmp_path: Path) -> None:
    """A callback that raises ends the child and the grandchild that holds on to its output."""
    inner = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(60)"
    code = (
        "import os, subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, '-c', {inner!r}])\n"
        "while not os.path.exists('pid') or not open('pid').read(): time.sleep(0.05)\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)"
    )

    class Stop(Exception):
        pass

    def stop(line: str) -> None:
        raise Stop(line)

    with pytest.raises(Stop):
        run_process(python(code), cwd=tmp_path, on_line=stop)
    pid = int((tmp_path / "pid").read_text())
    assert ended(pid)


def ended(pid: int) -> bool:
    """Whether a process is gone, or a zombie that nobody has waited for."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        status = Path(f"/proc/{pid}/stat")
        if status.is_file() and status.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False
