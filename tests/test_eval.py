"""`packager eval` as a user runs it: real engines on both sides, killed and continued, and everything that can be wrong."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from os import environ
from pathlib import Path
from typing import Any

import pytest

from packager.artifacts import Gguf, Modelfile, OllamaParameters
from packager.engines.ollama import OllamaServer
from packager.evaluation.request import EvalRequest, MetricName
from packager.evaluation.run import evaluate
from packager.events import Advanced, Event
from packager.formats.model_name import ModelName
from packager.formats.reference_name import ReferenceName
from packager.metrics.llamafactory import LlamaFactory
from packager.metrics.sacrebleu import Words
from packager.stages.register import RegisterJob, register
from tests.ollama_server import running_ollama
from tests.run_packager import error_lines, run_packager

NAME = "eval-test:q4_k_m"
TOKENS = 12
ROWS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "What is your name?"}, {"role": "assistant", "content": "My name is Packy."}]},
    {"conversations": [{"from": "human", "value": "Say hello."}, {"from": "gpt", "value": "Hello!"}], "system": "Be brief."},
    {"instruction": "Translate into German", "input": "Hello", "output": "Hallo"},
    {"messages": [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "你好！"}]},
]  # fmt: skip
_TIMEOUT_S = 120.0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture(scope="module")
def alone(data: Path, chat_gguf: Gguf) -> list[object]:
    """A packaged model without a reference."""
    return ["eval", chat_gguf.path, data, "--max-tokens", TOKENS]


@pytest.fixture(scope="module")
def compared(alone: list[object], smollm2: Path, smollm2_lora: Path) -> list[object]:
    """A quantized base against the unquantized fine-tune: two sides that really differ."""
    return [*alone, "--reference", f"{smollm2}+{smollm2_lora}", "--resamples", 200]


@pytest.fixture(scope="module")
def whole(compared: list[object], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The results of an undisturbed run with a reference, and what it printed."""
    folder = tmp_path_factory.mktemp("whole") / "results"
    done = run_packager(*compared, "-o", folder)
    assert done.code == 0, done.err
    return folder, done.out


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def test_both_sides_answer_every_row_and_are_scored(whole: tuple[Path, str], chat_gguf: Gguf) -> None:
    rows = rows_of(whole[0])
    metric = LlamaFactory()

    assert [(row["side"], row["row"]) for row in rows] == [
        (side, number) for side in ("packaged", "reference") for number in (1, 2, 3, 4)
    ]
    for row in rows:
        scores = metric.score(row["prediction"], row["label"])
        assert tuple(row["scores"].values()) == scores.statistics
    assert [row["prompt"] for row in rows[:4]] == [
        "What is your name?",
        "Say hello.",
        "Translate into German\nHello",
        "你好",
    ]
    assert rows[4]["prediction"] == "My name is Packy."  # what the LoRA was trained to say
    assert rows[0]["prediction"] != rows[4]["prediction"]
    header = json.loads((whole[0] / "header.json").read_text())
    assert header["packaged"]["weights_sha256"] == chat_gguf.sha256


def test_the_answers_are_those_of_the_libraries(whole: tuple[Path, str], chat_gguf: Gguf) -> None:
    import llama_cpp

    llama = llama_cpp.Llama(str(chat_gguf.path), n_ctx=512, verbose=False)
    chat = [{"role": "user", "content": "What is your name?"}]
    reply = llama.create_chat_completion(chat, max_tokens=TOKENS, temperature=0.0, repeat_penalty=1.0)
    llama.close()

    assert rows_of(whole[0])[0]["prediction"] == reply["choices"][0]["message"]["content"]


def test_the_summary_and_the_table_say_the_same(whole: tuple[Path, str]) -> None:
    folder, out = whole
    summary = json.loads((folder / "summary.json").read_text())
    rows = rows_of(folder)

    assert (summary["rows"], summary["scored"], summary["not_answered"]) == (4, 4, [])
    for figure, name in zip(summary["figures"], ("bleu_4", "rouge_1", "rouge_2", "rouge_l"), strict=True):
        packaged, reference = ([row["scores"][name] for row in half] for half in (rows[:4], rows[4:]))
        assert figure["packaged"] == pytest.approx(sum(packaged) / 4, abs=1e-9)
        assert figure["reference"] == pytest.approx(sum(reference) / 4, abs=1e-9)
        assert figure["difference"] == pytest.approx(figure["packaged"] - figure["reference"], abs=1e-9)
        assert figure["interval"]["low"] <= figure["difference"] <= figure["interval"]["high"]
        line = next(line.split() for line in out.splitlines() if line.startswith(figure["name"]))
        assert line[1:4] == [f"{figure['reference']:.4f}", f"{figure['packaged']:.4f}", f"{figure['difference']:+.4f}"]
    assert "4 of 4 rows scored" in out
    assert "200 paired bootstrap resamples of the rows, seed 0" in out
    assert f"rows: {folder / 'rows.jsonl'}" in out


def started(arguments: list[object], folder: Path, ollama: str = "127.0.0.1:9") -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "packager", *map(str, arguments), "-o", str(folder)]
    environment = {**environ, "OLLAMA_HOST": ollama}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def wait_for_rows(folder: Path, count: int, child: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    rows = folder / "rows.jsonl"
    while not (rows.exists() and rows.read_bytes().count(b"\n") >= count):
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture(scope="module")
def whole_alone(alone: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of an undisturbed run without a reference."""
    folder = tmp_path_factory.mktemp("alone") / "results"
    done = run_packager(*alone, "-o", folder)
    assert done.code == 0, done.err
    assert "difference" not in done.out
    return folder


def continued(arguments: list[object], folder: Path, number: signal.Signals, count: int, code: int) -> None:
    """Interrupt an evaluation after some rows, and run the same command to its end."""
    child = started(arguments, folder)
    wait_for_rows(folder, count, child)
    child.send_signal(number)
    _, err = child.communicate(timeout=_TIMEOUT_S)
    assert child.returncode == code, err
    assert "Traceback" not in err
    kept = (folder / "rows.jsonl").read_bytes()
    assert not (folder / "summary.json").exists()
    with (folder / "rows.jsonl").open("ab") as file:
        file.write(b'{"side": "packaged", "row": 4, "sha')  # a row that was being written when the power went

    done = run_packager(*arguments, "-o", folder)

    assert done.code == 0, done.err
    assert "of them answered before" in done.err
    assert (folder / "rows.jsonl").read_bytes().startswith(kept)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGKILL, -9), (signal.SIGINT, 130)],
    ids=["kill", "Ctrl-C"],
)
def test_interrupted_it_continues_to_the_same_bytes(
    number: signal.Signals, code: int, whole_alone: Path, alone: list[object], tmp_path: Path
) -> None:
    continued(alone, tmp_path / "results", number, 2, code)

    for name in ("rows.jsonl", "summary.json", "header.json"):
        assert (tmp_path / "results" / name).read_bytes() == (whole_alone / name).read_bytes()


def test_what_a_kill_in_the_reference_s_half_leaves_is_continued_too(
    whole: tuple[Path, str], data: Path, chat_gguf: Gguf, smollm2: Path, smollm2_lora: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(whole[0], tmp_path / "results")
    lines = (folder / "rows.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "rows.jsonl").write_bytes(b"".join(lines[:6]) + lines[6][:50])
    (folder / "summary.json").unlink()
    events: list[Event] = []
    request = EvalRequest(
        model=str(chat_gguf.path), quant=None, data=data, output=folder, template_file=None, metric=MetricName.LLAMAFACTORY,
        reference=ReferenceName(base=smollm2, adapter=smollm2_lora), words=Words.MTEVAL_13A, limit=None,
        max_tokens=TOKENS, resamples=200, seed=0, restart=False, reference_memory_bytes=None,
    )  # fmt: skip

    evaluate(request, emit=events.append)

    for name in ("rows.jsonl", "summary.json", "header.json"):
        assert (folder / name).read_bytes() == (whole[0] / name).read_bytes()
    asked = [
        (event.stage, event.done, event.total)
        for event in events
        if isinstance(event, Advanced) and event.unit == "row"
    ]
    assert asked == [("reference", 2, 4), ("reference", 3, 4)]


def test_a_finished_evaluation_is_only_summed_up_again(whole_alone: Path, alone: list[object]) -> None:
    before = (whole_alone / "rows.jsonl").stat()
    summary = (whole_alone / "summary.json").read_text()

    done = run_packager(*alone, "-o", whole_alone, "--json")

    assert done.code == 0, done.err
    assert done.out == summary
    assert (whole_alone / "rows.jsonl").stat() == before
    assert "packaged: done before, still valid" in done.err


def test_other_settings_are_refused_and_a_restart_takes_them(data: Path, chat_gguf: Gguf, tmp_path: Path) -> None:
    first = [
        "eval",
        chat_gguf.path,
        data,
        "-o",
        tmp_path / "r",
        "--limit",
        1,
        "--max-tokens",
        4,
        "--metrics",
        "sacrebleu",
    ]
    assert run_packager(*first).code == 0
    kept = (tmp_path / "r" / "rows.jsonl").read_bytes()

    refused = run_packager(*first, "--tokenize", "zh")
    assert refused.code == 3
    assert "it was begun with another metric: nrefs:1|case:mixed|eff:no|tok:13a|" in error_lines(refused)[0]
    assert error_lines(refused)[1] == "hint: Choose another folder with -o DIR, or begin anew with --restart."
    assert (tmp_path / "r" / "rows.jsonl").read_bytes() == kept

    restarted = run_packager(*first, "--tokenize", "zh", "--restart")
    assert restarted.code == 0, restarted.err
    assert "tok:zh|smooth:exp|version:" in restarted.out


def test_a_prompt_that_does_not_fit_is_told_and_not_scored(chat_gguf: Gguf, tmp_path: Path) -> None:
    long = {"instruction": "word " * 5000, "output": "no"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROWS[0]) + "\n" + json.dumps(long) + "\n")

    done = run_packager("eval", chat_gguf.path, tmp_path / "rows.jsonl", "-o", tmp_path / "r", "--max-tokens", 4)

    assert done.code == 0, done.err
    assert "not scored: row 2, packaged: CONTEXT_FULL: " in done.err
    assert "1 of 2 rows scored" in done.out


@pytest.fixture
def own_store(tmp_path: Path) -> Path:
    return tmp_path / "store" / "models"


@pytest.fixture
def registered(ollama_url: str, chat_gguf: Gguf) -> Iterator[str]:
    server = OllamaServer.connect(ollama_url)
    put(server, chat_gguf)
    yield ollama_url
    server.delete(NAME)


def put(server: OllamaServer, gguf: Gguf) -> None:
    modelfile = Modelfile(gguf="x", parameters=OllamaParameters(num_ctx=512), license_text=None)
    register(RegisterJob(gguf=gguf, modelfile=modelfile, name=ModelName.parse(NAME), replace=True), server)


def test_a_model_in_ollama_answers_greedily(registered: str, data: Path, tmp_path: Path) -> None:
    import httpx

    done = run_packager(
        "eval", "eval-test", data, "--quant", "q4_k_m", "-o", tmp_path / "r", "--max-tokens", TOKENS, ollama=registered
    )

    assert done.code == 0, done.err
    asked = {
        "model": NAME, "stream": False, "messages": ROWS[0]["messages"][:1],
        "options": {"temperature": 0, "repeat_penalty": 1.0, "num_predict": TOKENS},
    }  # fmt: skip
    reply = httpx.post(f"{registered}/api/chat", json=asked, timeout=_TIMEOUT_S, trust_env=False).json()
    assert rows_of(tmp_path / "r")[0]["prediction"] == reply["message"]["content"]
    header = json.loads((tmp_path / "r" / "header.json").read_text())
    assert header["packaged"]["name"] == NAME
    assert header["packaged"]["engine"].startswith("ollama ")


def test_an_ollama_that_dies_keeps_the_rows(
    ollama_executable: Path, own_store: Path, data: Path, chat_gguf: Gguf, tmp_path: Path
) -> None:
    many, folder = tmp_path / "many.jsonl", tmp_path / "r"
    many.write_text(data.read_text() * 3)
    arguments: list[object] = ["eval", NAME, many, "--max-tokens", TOKENS]
    with running_ollama(ollama_executable, own_store) as url:
        put(OllamaServer.connect(url), chat_gguf)
        child = started(arguments, folder, url)
        wait_for_rows(folder, 2, child)
    _, err = child.communicate(timeout=_TIMEOUT_S)
    assert child.returncode == 10, err
    assert "Traceback" not in err
    kept = (folder / "rows.jsonl").read_bytes()
    assert 2 <= kept.count(b"\n") < 12

    dead = run_packager(*arguments, "-o", folder)
    assert dead.code == 10
    assert error_lines(dead)[0] == "error: no Ollama answers at http://127.0.0.1:9"

    with running_ollama(ollama_executable, own_store) as url:
        done = run_packager(*arguments, "-o", folder, ollama=url)
    assert done.code == 0, done.err
    assert (folder / "rows.jsonl").read_bytes().startswith(kept)
    assert "12 of 12 rows scored" in done.out


BROKEN = ["broken.gguf", "rows.jsonl"]
BAD = {
    "no data": (["x.gguf", "none.jsonl"], 3, "none.jsonl: No such file or directory", "Give a .jsonl file"),
    "no label": (["x.gguf", "unlabelled.jsonl"], 3, "unlabelled.jsonl: line 2: no turn of the assistant", "jq -c"),
    "no rows": (["x.gguf", "empty.jsonl"], 3, "there are no rows in it", ""),
    "no reference": ([*BROKEN, "--reference", "a+b"], 3, "a+b: no such folder, nor is there a or b", "BASE+ADAPTER"),
    "two adapters": ([*BROKEN, "--reference", "one+two", "--adapter", "two"], 2, "name two adapters", "Leave one"),
    "an adapter alone": ([*BROKEN, "--adapter", "two"], 2, "--adapter two goes with a reference", "--reference BASE"),
    "a template alone": ([*BROKEN, "--template", "t"], 2, "--template t goes with a reference", "--reference BASE"),
    "words for nothing": ([*BROKEN, "--tokenize", "zh"], 2, "--tokenize zh means nothing", "--metrics sacrebleu"),
    "a broken model": (BROKEN, 3, "broken.gguf: llama.cpp cannot load it", "Build"),
    "a broken reference": ([*BROKEN, "--reference", "one"], 3, "one", ""),
    "limit 0": ([*BROKEN, "--limit", "0"], 2, "0 is not in the range x>=1", ""),
}


@pytest.mark.parametrize(("arguments", "code", "cause", "hint"), BAD.values(), ids=BAD)
def test_bad_input(tmp_path: Path, data: Path, arguments: list[str], code: int, cause: str, hint: str) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "rows.jsonl").write_text(data.read_text())
    (tmp_path / "unlabelled.jsonl").write_text(
        data.read_text().splitlines()[0] + '\n{"messages": [{"role": "user", "content": "a"}]}'
    )
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF and nothing else")

    done = run_packager("eval", *arguments, "-o", "results", cwd=tmp_path)

    lines = error_lines(done)
    assert done.code == code, done.err
    assert cause in lines[0]
    assert hint in "".join(lines[1:])
    assert not (tmp_path / "results" / "summary.json").exists()
