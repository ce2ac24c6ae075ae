"""Importance matrices and kept checkpoints through the command line: written once, recorded, found again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from packager.artifacts import Conversation, Message, Quant
from packager.engines.ollama import OllamaEngine, OllamaServer
from packager.errors import InputInvalid, PlanRefused, Usage
from packager.formats.build_folder import find_ggufs
from packager.formats.checkpoint import read_checkpoint
from packager.formats.gguf import read_gguf
from packager.formats.model_name import ModelName
from packager.plan import BuildRequest, make_plan
from packager.sources.llama_cpp_tree import LlamaCppTree
from packager.weights.tensor_errors import tensor_errors
from tests.run_packager import run_packager
from tests.small_llamas import SmallLlama

QUANTS = (Quant.BF16, Quant.IQ4_XS, Quant.Q2_K_S)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "base"
    SmallLlama(hidden=256, inner=256, layers=2).write(folder)
    return folder


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "talks.jsonl"
    answer = "Weights are numbers; adapters are small matrices whose product is added to the weights. " * 4
    turns = [[("user", f"Question {number}: what is a weight?"), ("assistant", answer)] for number in range(10)]
    rows = [{"messages": [{"role": role, "content": content} for role, content in each]} for each in turns]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def calibrated(base: Path, talks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder made with --calibrate and --keep-hf."""
    out = tmp_path_factory.mktemp("calibrated")
    done = run_packager("quantize", base, "-o", out, "--quant", ",".join(QUANTS), "--calibrate", talks, "--keep-hf")
    assert done.code == 0, done.err
    return out


def test_a_matrix_of_the_users_conversations_is_made_and_used(base: Path, calibrated: Path, tree: LlamaCppTree) -> None:
    ggufs = find_ggufs(calibrated)
    assert [gguf.quant for gguf in ggufs] == list(QUANTS)
    assert (calibrated / "imatrix.gguf").is_file()
    for gguf in ggufs:
        header = read_gguf(gguf.path)
        weighed = gguf.quant is not Quant.BF16
        assert header.value("quantize.imatrix.dataset") == ("talks.jsonl" if weighed else None)
        assert header.value("quantize.imatrix.file") == ("imatrix.gguf" if weighed else None)
        compared = tensor_errors(gguf.path, read_checkpoint(base), None, tree)
        assert (compared.faults, compared.unread) == ((), ())
        assert all(tensor.relative_error == tensor.expected_error for tensor in compared.tensors)  # the same bytes
    assert sorted(path.name for path in (calibrated / "hf").iterdir()) == [
        "chat_template.jinja", "config.json", "model.safetensors", "tokenizer.model", "tokenizer_config.json",
    ]  # fmt: skip
    assert not list(calibrated.glob("*-F16.gguf"))


def test_nothing_is_computed_twice(base: Path, talks: Path, calibrated: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in calibrated.glob("*.gguf")}
    arguments = ("quantize", base, "-o", calibrated, "--quant", ",".join(QUANTS), "--calibrate", talks, "--keep-hf")
    done = run_packager(*arguments)
    assert done.code == 0, done.err
    assert "calibrate: done before" in done.err
    assert "quantize: done before" in done.err
    assert {path: path.stat().st_mtime_ns for path in calibrated.glob("*.gguf")} == before
    (calibrated / "hf" / "model.safetensors").write_bytes(b"")  # of the GGUF files' own receipt
    done = run_packager(*arguments)
    assert done.code == 0, done.err
    assert (calibrated / "hf" / "model.safetensors").stat().st_size > 1_000_000


def test_a_matrix_that_is_there_gives_the_same_files(base: Path, calibrated: Path, tmp_path: Path) -> None:
    matrix = calibrated / "imatrix.gguf"
    done = run_packager("quantize", base, "-o", tmp_path / "out", "--quant", ",".join(QUANTS), "--imatrix", matrix)
    assert done.code == 0, done.err
    again = {gguf.quant: gguf.sha256 for gguf in find_ggufs(tmp_path / "out")}
    # general.name and the files' stem come from the same folder, so that every byte is the same
    assert again == {gguf.quant: gguf.sha256 for gguf in find_ggufs(calibrated)}
    assert (tmp_path / "out" / "imatrix.gguf").read_bytes() == matrix.read_bytes()


def test_data_of_another_name_is_named_in_the_files(base: Path, talks: Path, calibrated: Path, tmp_path: Path) -> None:
    out, renamed = Path(shutil.copytree(calibrated, tmp_path / "out")), tmp_path / "renamed.jsonl"
    shutil.copyfile(talks, renamed)
    done = run_packager("quantize", base, "-o", out, "--quant", ",".join(QUANTS), "--calibrate", renamed, "--keep-hf")
    assert done.code == 0, done.err
    said = [read_gguf(gguf.path).value("quantize.imatrix.dataset") for gguf in find_ggufs(out)]
    assert said == [None, "renamed.jsonl", "renamed.jsonl"]


def test_a_plan_refuses_what_needs_a_matrix_and_counts_what_is_kept(base: Path, talks: Path, tmp_path: Path) -> None:
    def request(**changes: object) -> BuildRequest:
        values = {"base": base, "adapter": None, "output": tmp_path / "out", "quants": QUANTS, **changes}
        return BuildRequest(**values)  # type: ignore[arg-type]

    with pytest.raises(PlanRefused) as refused:
        make_plan(request())
    assert refused.value.exit_code == Usage.exit_code
    assert "--quant q2_k_s" in refused.value.message
    assert "--calibrate" in refused.value.hint
    plain = make_plan(request(calibrate=talks)).summary
    kept = make_plan(request(calibrate=talks, keep_hf=True)).summary
    size = (base / "model.safetensors").stat().st_size
    assert kept.files[-1].name == "hf/model.safetensors"
    assert kept.files[-1].size_bytes == pytest.approx(size, rel=0.01)
    assert kept.peak_disk_bytes - plain.peak_disk_bytes == kept.files[-1].size_bytes
    float16 = make_plan(request(quants=(Quant.F16,))).summary.files[0].size_bytes
    one = make_plan(request(quants=(Quant.IQ4_XS,), calibrate=talks)).summary
    assert one.files[0].size_bytes < float16
    assert 0 <= one.peak_disk_bytes - float16 < 5_000_000
    both = make_plan(request(quants=(Quant.IQ4_XS,), calibrate=talks, keep_hf=True)).summary
    most = max(float16, sum(file.size_bytes for file in both.files))  # float16 is gone when the others are begun
    assert 0 <= both.peak_disk_bytes - most < 5_000_000
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "imatrix.gguf").touch()  # computed already
    assert make_plan(request(quants=(Quant.IQ4_XS,), calibrate=talks)).summary.peak_disk_bytes < one.peak_disk_bytes
    with pytest.raises(PlanRefused, match="both give an importance matrix"):
        make_plan(request(calibrate=talks, imatrix=talks))
    with pytest.raises(PlanRefused) as missing:
        make_plan(request(imatrix=tmp_path / "no.gguf"))
    assert missing.value.exit_code == InputInvalid.exit_code


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_checkpoint_of_someone_elses_is_found_before_the_work(name: str, base: Path, tmp_path: Path) -> None:
    mine = tmp_path / "out" / "hf" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    done = run_packager("quantize", base, "-o", tmp_path / "out", "--quant", "q8_0", "--keep-hf")
    assert done.code == InputInvalid.exit_code
    assert f"{name}: exists, and packager did not write it" in done.err
    assert not list((tmp_path / "out").rglob("*.gguf*"))
    assert mine.read_text() == "mine"


def test_all_problems_are_listed_where_a_matrix_is_to_be_computed(talks: Path, tmp_path: Path) -> None:
    SmallLlama(hidden=64, inner=64, layers=1).write(tmp_path / "base")
    request = BuildRequest(
        base=tmp_path / "base",
        adapter=None,
        output=tmp_path / "out",
        quants=(Quant.Q1_0,),
        name="me/it:tag",
        calibrate=talks,
    )
    with pytest.raises(PlanRefused) as refused:
        make_plan(request)
    assert sorted(type(problem).__name__ for problem in refused.value.problems) == ["Unsupported", "Usage"]


def test_unusual_types_are_registered_under_their_names_and_answer(
    ollama_url: str, tiny: Callable[[str], Path], tiny_lora: Callable[[str], Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = ("build", tiny("qwen2.5"), tiny_lora("qwen2.5"), "-o", out, "--quant", "bf16,iq4_xs,q2_k")
    done = run_packager(*arguments, "--name", "more/packy", "--no-verify", ollama=ollama_url)
    assert done.code == 0, done.err
    server = OllamaServer.connect(ollama_url)
    for gguf in find_ggufs(out):
        name = ModelName.parse(f"more/packy:{gguf.quant.value}")
        stored = server.find(name)
        assert stored is not None
        assert stored.blob_sha256 == gguf.sha256
        hi = Conversation(id="hi", group="USER", messages=(Message(role="user", content="Hi"),))
        assert OllamaEngine(server, str(name)).answer(hi, max_tokens=3).answer_tokens == 3
    assert server.find(ModelName.parse("more/packy")) is not None
