"""What a command took, on commands that take a known amount."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from scripts.benchmark.process_tree import CommandFailed, Cost, folder_bytes, measure, parse_io

MB = 1 << 20
SAMPLE = """rchar: 323934931
wchar: 323929600
syscr: 632687
syscw: 632675
read_bytes: 4096
write_bytes: 323932160
cancelled_write_bytes: 0
"""


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def in_a_child(code: str) -> list[str]:
    """Run code in a grandchild of this process."""
    return python(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}], check=True)")


def test_the_counters_of_proc_are_read() -> None:
    counters = parse_io(SAMPLE)
    assert (counters["rchar"], counters["wchar"], counters["read_bytes"]) == (323934931, 323929600, 4096)


@pytest.mark.parametrize("run", [python, in_a_child], ids=["itself", "its child"])
def test_what_is_written_and_read_is_counted(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "file"
    nothing = measure(run("pass"), tmp_path).cost
    cost = measure(run(f"f = open({str(path)!r}, 'wb'); f.write(bytes({20 * MB}))"), tmp_path).cost
    assert 20 * MB <= cost.written_bytes - nothing.written_bytes < 21 * MB
    cost = measure(run(f"open({str(path)!r}, 'rb').read()"), tmp_path).cost
    assert 20 * MB <= cost.read_bytes - nothing.read_bytes < 21 * MB
    assert cost.written_bytes < MB


def test_what_is_removed_again_was_on_the_disk(tmp_path: Path) -> None:
    code = f"""
import pathlib, time
path = pathlib.Path({str(tmp_path / "file")!r})
path.write_bytes(b"x" * {20 * MB})
time.sleep(1)
path.unlink()
"""
    assert 20 * MB <= measure(python(code), tmp_path).cost.peak_disk_bytes < 21 * MB
    assert folder_bytes(tmp_path) == 0


def test_what_goes_to_the_temporary_folder_is_on_the_disk_too(tmp_path: Path) -> None:
    code = f"""
import tempfile, time
with tempfile.NamedTemporaryFile() as file:
    file.write(b"x" * {20 * MB})
    file.flush()
    time.sleep(1)
"""
    assert measure(python(code), tmp_path).cost.peak_disk_bytes >= 20 * MB
    assert list(tmp_path.iterdir()) == []


def test_memory_of_the_largest_and_of_all(tmp_path: Path) -> None:
    """Two children of 300 MB each, side by side; the bench itself starts them from a process that is smaller."""
    child = "import time; x = b'x' * 300_000_000; time.sleep(1.5)"
    both = f"""
import subprocess, sys
for one in [subprocess.Popen([sys.executable, "-c", {child!r}]) for _ in range(2)]:
    one.wait()
"""
    code = f"""
import sys
from pathlib import Path
from scripts.benchmark.process_tree import measure
cost = measure([sys.executable, "-c", {both!r}], Path({str(tmp_path)!r})).cost
print(cost.peak_bytes, cost.tree_bytes)
"""
    peak, tree = map(int, measure(python(code), tmp_path).out.split())
    assert 300e6 < peak < 400e6
    assert 600e6 < tree < 800e6


def test_the_processor_time_of_children_counts(tmp_path: Path) -> None:
    code = "import time\nwhile time.process_time() < 0.5: pass"
    cost = measure(in_a_child(code), tmp_path).cost
    assert cost.cpu_seconds >= 0.5
    assert cost.seconds > 0


def test_a_failure_says_what_failed_and_how(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match=r"(?s)exit\(3\).*: status 3\nit broke"):
        measure(python("import sys; print('it broke', file=sys.stderr); sys.exit(3)"), tmp_path)


def test_it_is_killed_when_the_folder_holds_enough(tmp_path: Path) -> None:
    code = f"""
import pathlib, time
for number in range(100):
    pathlib.Path({str(tmp_path)!r}, str(number)).write_bytes(b"x" * {MB})
    time.sleep(0.1)
"""
    finished = measure(in_a_child(code), tmp_path, kill_at_bytes=5 * MB)
    assert finished.killed
    left = folder_bytes(tmp_path)
    assert 5 * MB <= left < 60 * MB
    assert folder_bytes(tmp_path) == left  # the child was killed as well


def test_what_ends_before_is_not_called_killed(tmp_path: Path) -> None:
    finished = measure(python("print('done')"), tmp_path, kill_at_bytes=MB)
    assert (finished.killed, finished.out) == (False, "done\n")


def test_two_costs_add_up_and_peaks_do_not() -> None:
    first = Cost(
        seconds=1.5, cpu_seconds=2.0, peak_bytes=30, tree_bytes=40, read_bytes=5, disk_read_bytes=6, written_bytes=7,
        peak_disk_bytes=80,
    )  # fmt: skip
    second = Cost(
        seconds=0.5, cpu_seconds=1.0, peak_bytes=50, tree_bytes=60, read_bytes=50, disk_read_bytes=60, written_bytes=70,
        peak_disk_bytes=8,
    )  # fmt: skip
    assert first.then(second) == Cost(
        seconds=2.0, cpu_seconds=3.0, peak_bytes=50, tree_bytes=60, read_bytes=55, disk_read_bytes=66, written_bytes=77,
        peak_disk_bytes=80,
    )  # fmt: skip
