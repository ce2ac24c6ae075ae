from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from packager.artifacts import Gguf, Quant
from packager.durable import UNFINISHED, FileDigest
from packager.errors import InputInvalid, Locked, NoSpace
from packager.events import Event, Noted, StageFinished, StageStarted
from packager.formats.adapter import read_adapter
from packager.formats.checkpoint import read_checkpoint
from packager.workspace import Workspace, model_files
from tests.formats.tiny_folders import write_adapter, write_base, write_sharded


@dataclass(frozen=True, kw_only=True)
class Key:
    seed: int = 0
    version: str = "1"


@dataclass(frozen=True, kw_only=True)
class Result:
    files: tuple[Path, ...]
    note: str | None = None


class Runs:
    """A job that counts its runs and writes `files`."""

    def __init__(self, **files: str) -> None:
        self.files = files
        self.count = 0

    def __call__(self, staging: Path) -> Result:
        self.count += 1
        assert list(staging.iterdir()) == []
        paths = []
        for name, text in self.files.items():
            path = staging / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            paths.append(path)
        return Result(files=tuple(paths), note="made")


def once(folder: Path, job: Callable[[Path], Result], key: Key | None = None, stage: str = "make") -> Result:
    with Workspace(folder) as workspace:
        return workspace.once(stage, key=key or Key(), job=job, kind=Result, title="make it")


def contents(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file() and ".packager" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


def receipt_path(folder: Path, stage: str = "make") -> Path:
    return folder / ".packager" / "receipts" / f"{stage}.json"


# --- once --------------------------------------------------------------------------------------------------------------


def test_a_stage_is_done_once(tmp_path: Path) -> None:
    job, events = Runs(a="1", sub__b="2"), list[Event]()
    for _ in range(3):
        with Workspace(tmp_path / "out", emit=events.append) as workspace:
            result = workspace.once("make", key=Key(), job=job, kind=Result, title="make it")
        assert result == Result(files=(tmp_path / "out" / "a", tmp_path / "out" / "sub" / "b"), note="made")
        assert contents(tmp_path / "out") == {"a": "1", "sub/b": "2"}
    assert job.count == 1
    assert [type(event) for event in events] == [StageStarted, StageFinished] * 3
    assert [event.reused for event in events if isinstance(event, StageFinished)] == [False, True, True]
    assert events[0] == StageStarted(stage="make", title="make it")


def test_nothing_but_receipts_is_left(tmp_path: Path) -> None:
    once(tmp_path, Runs(a="1"))
    assert sorted(path.name for path in (tmp_path / ".packager").rglob("*")) == ["lock", "make.json", "receipts"]


@pytest.mark.parametrize("key", [Key(seed=1), Key(version="2")], ids=["parameter", "version"])
def test_another_key_is_another_result(key: Key, tmp_path: Path) -> None:
    once(tmp_path, Runs(a="1"))
    job = Runs(a="2")
    once(tmp_path, job, key)
    assert job.count == 1
    assert contents(tmp_path) == {"a": "2"}


def test_two_stages_have_their_own_receipts(tmp_path: Path) -> None:
    once(tmp_path, Runs(a="1"), stage="first")
    once(tmp_path, Runs(b="2"), stage="second")
    job = Runs(a="1")
    once(tmp_path, job, stage="first")
    assert job.count == 0


class Continues:
    """A job that adds a line to its file each time, until it has three."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error
        self.found: list[str] = []

    def __call__(self, staging: Path) -> Result:
        file = staging / "a.partial"
        for _ in range(3):
            before = file.read_text() if file.exists() else ""
            self.found.append(before)
            file.write_text(before + "line\n")
            if len(before) == 0 and self.error is not None:
                raise self.error
            if before.count("line") == 2:
                break
        file.rename(staging / "a")
        return Result(files=(staging / "a",), note="")

    def run(self, folder: Path, key: Key | None = None) -> Result:
        with Workspace(folder) as workspace:
            return workspace.once("make", key=key or Key(), job=self, kind=Result, title="make it", continues=True)


def test_an_interrupted_stage_goes_on_with_what_it_left(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        Continues(KeyboardInterrupt()).run(tmp_path)
    assert contents(tmp_path) == {}
    once(tmp_path / "elsewhere", Runs(a="1"))
    job = Continues(None)
    job.run(tmp_path)
    assert job.found == ["line\n", "line\n" * 2]
    assert contents(tmp_path)["a"] == "line\n" * 3
    assert not (tmp_path / UNFINISHED).exists()


@pytest.mark.parametrize(
    ("error", "key"),
    [
        pytest.param(InputInvalid("bad"), None, id="after-an-error-of-the-input"),
        pytest.param(OSError(28, "No space left on device"), None, id="after-a-full-disk"),
        pytest.param(KeyboardInterrupt(), Key(seed=1), id="with-another-key"),
    ],
)
def test_nothing_is_continued(error: BaseException, key: Key | None, tmp_path: Path) -> None:
    with pytest.raises((InputInvalid, NoSpace, KeyboardInterrupt)):
        Continues(error).run(tmp_path)
    job = Continues(None)
    job.run(tmp_path, key)
    assert job.found[0] == ""
    assert not list((tmp_path / ".packager").rglob("a.partial"))


def once_and_fail(folder: Path) -> None:
    with contextlib.suppress(InputInvalid), Workspace(folder) as workspace:
        workspace.once("first", key=Key(), job=Runs(b="2"), kind=Result, title="")
        raise InputInvalid("the server is not there")


def test_what_is_unfinished_outlives_other_stages_and_not_a_run_that_ends_well(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Workspace(tmp_path) as workspace:
        workspace.once("make", key=Key(), job=Continues(KeyboardInterrupt()), kind=Result, title="", continues=True)
    once_and_fail(tmp_path)
    assert list((tmp_path / UNFINISHED).rglob("a.partial"))
    once(tmp_path, Runs(c="3"), stage="other")
    assert not (tmp_path / UNFINISHED).exists()


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_flip, "a is not as it was written"),
        (lambda path: path.write_text("longer than before"), "a is not as it was written"),
        (lambda path: path.unlink(), "a is missing"),
        (_link, "a is missing"),
    ],
    ids=["flipped-bit", "other-size", "missing", "link"],
)
def test_an_output_that_changed_is_noticed_and_made_again(
    damage: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    job, events = Runs(a="1234567"), list[Event]()
    once(tmp_path, job)
    damage(tmp_path / "a")
    with Workspace(tmp_path, emit=events.append) as workspace:
        workspace.once("make", key=Key(), job=job, kind=Result, title="t")
    assert job.count == 2
    assert not (tmp_path / "a").is_symlink()
    assert (tmp_path / "a").read_text() == "1234567"
    assert any(isinstance(event, Noted) and words in event.text for event in events)


def test_a_folder_can_be_moved(tmp_path: Path) -> None:
    job = Runs(a="1")
    once(tmp_path / "old", job)
    (tmp_path / "old").rename(tmp_path / "new")
    assert once(tmp_path / "new", job).files == (tmp_path / "new" / "a",)
    assert job.count == 1


def test_results_may_name_files_of_earlier_stages(tmp_path: Path) -> None:
    once(tmp_path, Runs(a="1"), stage="first")
    wanted = Result(files=(tmp_path / "a",))
    assert once(tmp_path, lambda staging: wanted, stage="second") == wanted


def test_a_tuple_of_artifacts_is_a_result(tmp_path: Path) -> None:
    def job(staging: Path) -> tuple[Gguf, ...]:
        (staging / "x.gguf").write_bytes(b"x")
        return (Gguf(path=staging / "x.gguf", quant=Quant.F16, sha256="0" * 64, size_bytes=1),)

    for _ in range(2):
        with Workspace(tmp_path) as workspace:
            [gguf] = workspace.once("weights", key=Key(), job=job, kind=tuple[Gguf, ...], title="t")
        assert gguf.path == tmp_path / "x.gguf"


def test_a_result_of_another_type_is_not_reused(tmp_path: Path) -> None:
    once(tmp_path, Runs(a="1"))
    with Workspace(tmp_path) as workspace:
        assert workspace.once("make", key=Key(), job=lambda staging: "text", kind=str, title="t") == "text"
        assert workspace.recorded("make", str, key=Key()) == "text"
        assert workspace.recorded("make", Result, key=Key()) is None
        assert workspace.recorded("make", str, key="another") is None
        assert workspace.recorded("other", str, key=Key()) is None


def test_digests_the_job_took_are_believed_for_the_size_they_were_taken_of(tmp_path: Path) -> None:
    def digests(result: Result) -> tuple[FileDigest, ...]:
        return (
            FileDigest(name="a", size_bytes=1, sha256="a" * 64),
            FileDigest(name="b", size_bytes=7, sha256="b" * 64),
        )

    with Workspace(tmp_path) as workspace:
        job = Runs(a="1", b="2")
        workspace.once("make", key=Key(), job=job, kind=Result, title="t", digests=digests)
    recorded = {item["name"]: item["sha256"] for item in json.loads(receipt_path(tmp_path).read_text())["outputs"]}
    assert recorded == {"a": "a" * 64, "b": hashlib.sha256(b"2").hexdigest()}


# --- receipts ----------------------------------------------------------------------------------------------------------


def _resealed(change: Callable[[dict[str, object]], object]) -> Callable[[bytes], bytes]:
    """A receipt with a valid seal and something changed."""

    def spoil(data: bytes) -> bytes:
        body = json.loads(data)
        body.pop("sha256")
        change(body)
        seal = hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
        return json.dumps({**body, "sha256": seal}).encode()

    return spoil


SPOILED: dict[str, Callable[[bytes], bytes]] = {
    **{f"cut-{tenth}": (lambda data, tenth=tenth: data[: len(data) * tenth // 10]) for tenth in range(10)},
    "garbage": lambda data: b"\xff\x00garbage",
    "list": lambda data: b"[]",
    "null": lambda data: b"null",
    "deep": lambda data: b"[" * 100_000,
    "digit-changed": lambda data: data.replace(b'"size_bytes": 1', b'"size_bytes": 2'),
    "no-seal": lambda data: json.dumps({k: v for k, v in json.loads(data).items() if k != "sha256"}).encode(),
    "other-format": _resealed(lambda body: body.update(format=2)),
    "other-stage": _resealed(lambda body: body.update(stage="other")),
    "no-result": _resealed(lambda body: body.pop("result")),
    "unknown-field": _resealed(lambda body: body.update(more=1)),
    "leaves-the-folder": _resealed(
        lambda body: body.update(outputs=[{"name": "../x", "size_bytes": 1, "sha256": "0" * 64}])
    ),
    "result-leaves-the-folder": _resealed(lambda body: body.update(result={"files": ["/etc/passwd"], "note": None})),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_receipt_that_cannot_be_trusted_is_as_none(case: str, tmp_path: Path) -> None:
    job = Runs(a="1")
    once(tmp_path, job)
    path = receipt_path(tmp_path)
    path.write_bytes(SPOILED[case](path.read_bytes()))
    assert once(tmp_path, job).files == (tmp_path / "a",)
    assert job.count == 2
    once(tmp_path, job)
    assert job.count == 2


def test_a_resealed_receipt_that_is_right_is_reused(tmp_path: Path) -> None:
    job = Runs(a="1")
    once(tmp_path, job)
    path = receipt_path(tmp_path)
    path.write_bytes(_resealed(lambda body: None)(path.read_bytes()))
    once(tmp_path, job)
    assert job.count == 1


def test_receipts_hold_no_path_of_this_machine(tmp_path: Path) -> None:
    once(tmp_path, Runs(a="1", sub__b="2"))
    assert str(tmp_path) not in receipt_path(tmp_path).read_text()


def test_an_intent_says_whose_a_file_is_and_goes_when_it_is_fulfilled(tmp_path: Path) -> None:
    job = Runs(a="1")
    once(tmp_path, job)
    receipt, intent = receipt_path(tmp_path), receipt_path(tmp_path).with_suffix(".intent")
    outputs = json.dumps({"outputs": json.loads(receipt.read_text())["outputs"]})
    intent.write_text(outputs)  # killed between the receipt and the end
    once(tmp_path, job)
    assert not intent.exists()
    assert job.count == 1
    intent.write_text(outputs)  # killed between publishing and the receipt, then built with other settings
    receipt.unlink()
    once(tmp_path, Runs(a="2"), Key(seed=2))
    assert contents(tmp_path) == {"a": "2"}
    intent.write_text("{garbage")
    once(tmp_path, Runs(a="2"), Key(seed=2))


# --- other people's files ----------------------------------------------------------------------------------------------


def test_a_foreign_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")
    job = Runs(a="1")
    with pytest.raises(InputInvalid, match="a: exists, and packager did not write it") as caught:
        once(tmp_path, job)
    assert "-o DIR" in caught.value.hint
    assert contents(tmp_path) == {"a": "mine"}
    assert not receipt_path(tmp_path).exists()
    with Workspace(tmp_path) as workspace, pytest.raises(InputInvalid):
        workspace.once("make", key=Key(), job=job, kind=Result, title="t", outputs=("a",))
    assert job.count == 1  # the second time before any work


def test_a_foreign_folder_in_the_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(InputInvalid):
        once(tmp_path, Runs(a="1"))


def test_the_same_bytes_are_adopted(tmp_path: Path) -> None:
    once(tmp_path, Runs(a="1"))
    shutil.rmtree(tmp_path / ".packager")
    once(tmp_path, Runs(a="1"))
    assert receipt_path(tmp_path).exists()


def test_files_of_earlier_settings_stay_and_stay_known(tmp_path: Path) -> None:
    events = list[Event]()
    once(tmp_path, Runs(a="1", b="1"), Key(seed=1))
    with Workspace(tmp_path, emit=events.append) as workspace:
        workspace.once("make", key=Key(seed=2), job=Runs(a="2"), kind=Result, title="t")
    assert contents(tmp_path) == {"a": "2", "b": "1"}
    notes = [event for event in events if isinstance(event, Noted)]
    assert [(note.warning, note.text.split()[0]) for note in notes] == [(True, "b")]
    once(tmp_path, Runs(b="3"), Key(seed=3))  # b is ours: no complaint
    assert contents(tmp_path) == {"a": "2", "b": "3"}


# --- failing jobs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), ConnectionError("x")], ids=repr)
def test_a_failed_job_publishes_nothing_and_keeps_what_was(error: BaseException, tmp_path: Path) -> None:
    once(tmp_path, Runs(a="1"))

    def job(staging: Path) -> Result:
        (staging / "a").write_text("half")
        raise error

    with pytest.raises(type(error)):
        once(tmp_path, job, Key(seed=2))
    assert contents(tmp_path) == {"a": "1"}
    assert not (tmp_path / ".packager" / "staging").exists()
    first = Runs(a="1")
    once(tmp_path, first)
    assert first.count == 0


def test_a_job_can_be_tried_again_in_the_same_workspace(tmp_path: Path) -> None:
    def job(staging: Path) -> Result:
        (staging / "left").write_text("half")
        raise ValueError

    with Workspace(tmp_path) as workspace:
        with pytest.raises(ValueError, match=r"^$"):
            workspace.once("make", key=Key(), job=job, kind=Result, title="t")
        workspace.once("make", key=Key(), job=Runs(a="1"), kind=Result, title="t")
    assert contents(tmp_path) == {"a": "1"}


def test_a_full_disk_in_a_job_is_no_space(tmp_path: Path) -> None:
    def job(staging: Path) -> Result:
        with Path("/dev/full").open("wb", buffering=0) as file:
            file.write(b"x")
        return Result(files=())

    with pytest.raises(NoSpace, match="No space left") as caught:
        once(tmp_path, job)
    assert "continues" in caught.value.hint


def test_what_a_job_may_not_do(tmp_path: Path) -> None:
    def link(staging: Path) -> Result:
        (staging / "a").symlink_to("/etc/passwd")
        return Result(files=())

    with pytest.raises(RuntimeError, match="no regular file"):
        once(tmp_path, link)
    with pytest.raises(RuntimeError, match="outside of its folders"):
        once(tmp_path, lambda staging: Result(files=(Path("/etc/passwd"),)))
    with pytest.raises(ValueError, match="no stage name"):
        once(tmp_path, Runs(a="1"), stage="../x")
    assert contents(tmp_path) == {}


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputInvalid, match="file"), Workspace(tmp_path / "file" / "out"):
        pass


# --- locks and kills ---------------------------------------------------------------------------------------------------

HOLDER = """
import sys
from pathlib import Path
from packager.workspace import Workspace
with Workspace(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_has_one_writer_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Locked) as caught, Workspace(tmp_path):
            pass
        assert caught.value.exit_code == 8
        assert str(tmp_path) in caught.value.message
        assert caught.value.hint
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
        holder.stdin.close()
    with Workspace(tmp_path):
        pass


def test_a_folder_has_one_writer_in_a_process(tmp_path: Path) -> None:
    with Workspace(tmp_path):
        with pytest.raises(Locked), Workspace(tmp_path):
            pass
        (tmp_path / ".packager" / "staging").mkdir()  # the one refused cleared nothing of the holder's
    with Workspace(tmp_path):
        pass


def test_what_a_killed_run_left_is_cleared_at_entry(tmp_path: Path) -> None:
    private = tmp_path / ".packager"
    (private / "staging" / "make" / "deep").mkdir(parents=True)
    (private / "staging" / "make" / "deep" / "x").write_text("half")
    (private / "receipts").mkdir()
    (private / "receipts" / "make.json.partial").write_text("half")
    (private / "digests.json.partial").write_text("half")
    with Workspace(tmp_path):
        assert sorted(path.name for path in private.rglob("*")) == ["lock", "receipts"]


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: flushing to a disk hundreds of times is slow and proves no more here."""
    shared = Path("/dev/shm")  # noqa: S108
    if os.access(shared, os.W_OK):
        folder = Path(tempfile.mkdtemp(dir=shared))
        yield folder
        shutil.rmtree(folder)
    else:
        yield tmp_path


@pytest.mark.skipif(sys.platform == "win32", reason="os.fork")
@pytest.mark.parametrize(
    ("mode", "count", "at_least"), [("steps", 0, 60), ("times", 20, 3)], ids=["every-step", "times"]
)
def test_killed_at_any_moment_it_continues_to_the_same_digests(
    mode: str, count: int, at_least: int, memory: Path
) -> None:
    program = [sys.executable, "-m", "tests.killed_workspace", str(memory / "out"), mode, str(count)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    finished = subprocess.run(program, capture_output=True, text=True, check=False, env=environment)
    assert finished.returncode == 0, finished.stderr
    rows = [json.loads(line) for line in finished.stdout.splitlines()]
    assert [row for row in rows if row["broken"] or not row["done"]] == []
    assert {tuple(name for name in row["rest"] if name != "digests.json") for row in rows} == {
        ("hf.json", "lock", "report.json", "weights.json")
    }
    assert sum(row["killed"] for row in rows) >= at_least


# --- inputs ------------------------------------------------------------------------------------------------------------

OLD_FILE = Path(__file__).parents[1] / "packager" / "errors.py"


def test_inputs_are_named_without_folders_and_hashed(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x").write_text("same")
    with Workspace(tmp_path / "out") as workspace:
        first = workspace.digest_inputs((tmp_path / "one" / "x",))
        assert first == workspace.digest_inputs((tmp_path / "two" / "x",))
    assert first == (FileDigest(name="x", size_bytes=4, sha256=hashlib.sha256(b"same").hexdigest()),)


def test_a_settled_input_is_read_once(tmp_path: Path) -> None:
    with Workspace(tmp_path) as workspace:
        true = workspace.digest_inputs((OLD_FILE,))
    book = tmp_path / ".packager" / "digests.json"
    assert true[0].sha256 in book.read_text()
    book.write_text(book.read_text().replace(true[0].sha256, "f" * 64))  # shows whether the file is read again
    with Workspace(tmp_path) as workspace:
        assert workspace.digest_inputs((OLD_FILE,))[0].sha256 == "f" * 64
    book.write_text(book.read_text().replace('"mtime_ns": 1', '"mtime_ns": 2'))
    with Workspace(tmp_path) as workspace:
        assert workspace.digest_inputs((OLD_FILE,)) == true


def test_a_fresh_input_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("1")
    with Workspace(tmp_path / "out") as workspace:
        first = workspace.digest_inputs((tmp_path / "x",))
        status = (tmp_path / "x").stat()
        (tmp_path / "x").write_text("2")
        os.utime(tmp_path / "x", ns=(status.st_atime_ns, status.st_mtime_ns))
        assert workspace.digest_inputs((tmp_path / "x",)) != first


@pytest.mark.parametrize("text", ["", "{", "[]", '{"digests": [1]}', '{"digests": [{"path": 1}]}'])
def test_a_damaged_book_of_digests_is_ignored(text: str, tmp_path: Path) -> None:
    (tmp_path / ".packager").mkdir()
    (tmp_path / ".packager" / "digests.json").write_text(text)
    with Workspace(tmp_path) as workspace:
        assert workspace.digest_inputs((OLD_FILE,))[0].name == "errors.py"


def test_a_missing_input_is_named(tmp_path: Path) -> None:
    with Workspace(tmp_path / "out") as workspace, pytest.raises(InputInvalid, match="absent"):
        workspace.digest_inputs((tmp_path / "absent",))


def test_the_files_of_a_model(tmp_path: Path) -> None:
    base = write_sharded(tmp_path / "base")
    for name in ("LICENSE", "README.md", "tokenizer.model", "optimizer.bin", "notes.log", "chat_template.jinja"):
        (base / name).write_text("")
    (base / "tokenizer_config.json").write_text("{}")
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates" / "rag.jinja").write_text("")
    checkpoint = read_checkpoint(base)
    adapter = read_adapter(write_adapter(tmp_path / "adapter"), checkpoint)
    names = [path.relative_to(tmp_path).as_posix() for path in model_files(checkpoint, adapter)]
    assert names == [
        "base/LICENSE",
        "base/README.md",
        "base/additional_chat_templates/rag.jinja",
        "base/chat_template.jinja",
        "base/config.json",
        "base/model-00001-of-00002.safetensors",
        "base/model-00002-of-00002.safetensors",
        "base/model.safetensors.index.json",
        "base/tokenizer.model",
        "base/tokenizer_config.json",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
    ]
    assert model_files(read_checkpoint(write_base(tmp_path / "b")), None) == (
        tmp_path / "b" / "config.json",
        tmp_path / "b" / "model.safetensors",
    )


def test_a_folder_whose_name_is_not_utf_8_is_digested_and_remembered(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    try:
        folder.mkdir()
    except OSError:
        return  # this file system takes UTF-8 names only, so there is nothing to read
    (folder / "config.json").write_text("{}")
    os.utime(folder / "config.json", (1, 1))
    for _ in range(2):
        with Workspace(tmp_path / "out") as workspace:
            (found,) = workspace.digest_inputs((folder / "config.json",))
        assert found.sha256 == hashlib.sha256(b"{}").hexdigest()
