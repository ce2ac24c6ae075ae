"""`packager fetch` as a user runs it, against a hub on loopback; everything else is behind a proxy that is not there."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hub_server import Fault, HubServer, checkpoint_files, running_hub, sha256
from tests.run_packager import Finished, error_lines, run_packager

FIRST = "model-00001-of-00002.safetensors"
NOBODY = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def server() -> Iterator[HubServer]:
    with running_hub() as running:
        yield running


@pytest.fixture
def hub(server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """The hub, with the environment that points a command at it."""
    server.requests.clear()
    server.faults, server.gated, server.extra_paths = [], set(), ()
    settings = {
        "HF_ENDPOINT": server.url, "HF_HOME": tmp_path / "hf", "MODELSCOPE_ENDPOINT": server.url,
        "MODELSCOPE_CACHE": tmp_path / "ms", "HOME": tmp_path, "NO_PROXY": "127.0.0.1", "HTTP_PROXY": NOBODY,
        "HTTPS_PROXY": NOBODY, "ALL_PROXY": NOBODY,
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, str(value))
        monkeypatch.delenv(name.lower(), raising=False)
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "MODELSCOPE_API_TOKEN", "XDG_CACHE_HOME", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    return server


def model(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(autouse=True)
def _in_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))


@pytest.mark.parametrize("name", ["hf:org/tiny", "ms:org/tiny"])
def test_a_real_checkpoint_is_fetched_and_planned(hub: HubServer, tiny: Callable[[str], Path], name: str) -> None:
    commit = hub.push("org/tiny", model(tiny("qwen2.5")))
    fetched = run_packager("fetch", name)
    assert fetched.code == 0, fetched.err
    assert f"{name} at {commit}" in fetched.err
    planned = run_packager("plan", fetched.out.strip(), "-o", "out", "--json")
    assert planned.code == 0, planned.err
    summary = json.loads(planned.out)
    assert (summary["base"], summary["architecture"]) == ("tiny", "Qwen2ForCausalLM")
    assert f"base from {name} at {commit}" in summary["notes"]


def test_json_is_all_that_is_printed_and_offline_gives_the_same(hub: HubServer) -> None:
    files = checkpoint_files()
    commit = hub.push("org/model", files)
    finished = run_packager("fetch", "org/model", "--revision", "main", "--json")
    found = json.loads(finished.out)
    assert (found["source"], found["revision"]) == ("hf:org/model", commit)
    assert {item["name"]: item["sha256"] for item in found["files"]}[FIRST] == sha256(files[FIRST])
    hub.requests.clear()
    assert run_packager("fetch", "-q", "hf:org/model", "--offline", "--json").out == finished.out
    assert hub.requests == []


def sizes(folder: Path) -> list[int]:
    """The sizes of what has not arrived whole; a file may be renamed meanwhile."""
    found = []
    for path in folder.glob("*incomplete"):
        with contextlib.suppress(FileNotFoundError):
            found.append(path.stat().st_size)
    return found


def failed(code: int, *arguments: str) -> list[str]:
    """Run a fetch that fails, and give its error and its hint."""
    finished: Finished = run_packager("fetch", *arguments)
    assert finished.code == code, finished.err
    lines = error_lines(finished)
    assert [line.partition(":")[0] for line in lines] == ["error", "hint"], finished.err
    return lines


def test_every_failure_has_its_exit_code_one_line_and_a_hint(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.push("org/model", checkpoint_files())
    hub.push("org/gguf", {"config.json": b"{}", "model.gguf": b"x"})
    assert "no name on a hub" in failed(2, "nonsense")[0]
    assert "it has model.gguf" in failed(12, "ms:org/gguf")[0]
    hub.faults = [Fault(path="config.json", change=lambda data: data[::-1])]
    assert "the hub says" in failed(6, "ms:org/model")[0]
    hub.extra_paths = ("../x.json",)
    assert "no path inside" in failed(4, "ms:org/model")[0]
    monkeypatch.setenv("HF_ENDPOINT", NOBODY)
    assert "cannot be reached" in failed(11, "hf:org/model")[0]


def test_a_full_disk_is_no_space_and_the_next_run_goes_on(hub: HubServer, tmp_path: Path) -> None:
    files = checkpoint_files(3_000_000)
    hub.push("org/model", files)
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY));"
        "from packager.cli import main; main(['fetch', 'hf:org/model', '-o', 'out'])"
    )  # a file may grow to 1 MB: the write that fails is a real one
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "config.json").exists()
    hub.requests.clear()
    assert run_packager("fetch", "hf:org/model", "-o", "out").code == 0
    assert (tmp_path / "out" / FIRST).read_bytes() == files[FIRST]
    ranges = [seen.headers.get("range") for seen in hub.requests if seen.path.endswith(sha256(files[FIRST]))]
    assert ranges == ["bytes=1000000-"]


@pytest.mark.parametrize(
    ("name", "number", "code"),
    [("hf:org/model", signal.SIGINT, 130), ("ms:org/model", signal.SIGTERM, 143), ("ms:org/model", signal.SIGKILL, -9)],
    ids=["hf ctrl-c", "ms terminated", "ms killed"],
)
def test_interrupted_the_same_command_continues(
    hub: HubServer, tmp_path: Path, name: str, number: signal.Signals, code: int
) -> None:
    files = checkpoint_files(3_000_000)
    hub.push("org/model", files)
    asked = f"FilePath={FIRST}" if name.startswith("ms") else f"/cdn/{sha256(files[FIRST])}"
    hub.faults = [Fault(path=asked, stall_after=1_000_000)]
    process = subprocess.Popen(
        [sys.executable, "-m", "packager", "fetch", name, "-o", "out"],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    deadline = time.monotonic() + 30
    staged = tmp_path / "out" / ".packager" / "fetch"
    while 1_000_000 not in sizes(staged):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    _, shown = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in shown
    assert not (tmp_path / "out" / "config.json").exists()
    hub.requests.clear()
    finished = run_packager("fetch", name, "-o", "out")
    assert finished.code == 0, finished.err
    assert (tmp_path / "out" / FIRST).read_bytes() == files[FIRST]
    assert [seen.headers.get("range") for seen in hub.requests if asked in seen.path] == ["bytes=1000000-"]


def test_two_at_once_share_the_work(hub: HubServer) -> None:
    files = checkpoint_files(3_000_000)
    hub.push("org/model", files)
    command = [sys.executable, "-m", "packager", "fetch", "-q", "hf:org/model"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) for _ in range(2)]
    results = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert results[0] == results[1]
    assert hub.paths("cdn").count(f"/cdn/{sha256(files[FIRST])}") == 1


def test_a_token_is_in_no_file_and_on_no_other_host(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.push("org/model", checkpoint_files())
    hub.gated.add("org/model")
    assert "HF_TOKEN" in failed(11, "hf:org/model")[1]
    monkeypatch.setenv("HF_TOKEN", "hf_allowed")
    finished = run_packager("fetch", "hf:org/model", "-o", "out")
    assert finished.code == 0, finished.err
    assert "hf_allowed" not in finished.err + finished.out
    assert not any(b"hf_allowed" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert all("authorization" not in seen.headers for seen in hub.requests if seen.server == "cdn")


def test_without_the_build_extra_modelscope_works_and_hugging_face_says_what_is_missing(hub: HubServer) -> None:
    hub.push("org/model", checkpoint_files())
    codes = []
    for name in ("ms:org/model", "hf:org/model"):
        code = f"import sys; sys.modules['huggingface_hub'] = None\nfrom packager.cli import main\nmain(['fetch', {name!r}])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        codes.append(done.returncode)
        assert "Traceback" not in done.stderr
    assert codes == [0, 9]
    assert "pip install 'ollama-packager[build]'" in done.stderr
