from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from packager.artifacts import Quant
from packager.durable import UNFINISHED
from packager.errors import NoSpace, PlanRefused
from packager.plan import BuildRequest, make_plan
from packager.quants import DEFAULT_QUANTS
from tests.run_packager import run_packager


def request(base: Path, adapter: Path | None, output: Path, **changes: object) -> BuildRequest:
    values = {"base": base, "adapter": adapter, "output": output, "quants": DEFAULT_QUANTS, "name": "me/packy"}
    return BuildRequest(**{**values, **changes})  # type: ignore[arg-type]


def test_says_what_a_build_would_do(smollm2: Path, smollm2_lora: Path, tmp_path: Path) -> None:
    plan = make_plan(request(smollm2, smollm2_lora, tmp_path / "out")).summary
    assert plan.architecture == "LlamaForCausalLM"
    assert plan.updates == 30 * 7  # seven linear layers in each of thirty blocks
    assert [file.name for file in plan.files] == [
        "packy-135M-F16.gguf", "packy-135M-Q8_0.gguf", "packy-135M-Q4_K_M.gguf"
    ]  # fmt: skip
    assert plan.names == ("me/packy:f16", "me/packy:q8_0", "me/packy:q4_k_m", "me/packy:latest")
    assert plan.stops == ("<|im_end|>",)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("family", ["qwen2.5", "qwen3", "llama3.1"])
def test_sizes_are_within_five_percent_of_what_a_build_writes(
    family: str, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    planned = {file.name: file.size_bytes for file in make_plan(request(tiny(family), None, tmp_path)).summary.files}
    arguments = ("build", tiny(family), "-o", tmp_path, "--name", "me/packy", "--no-register", "--no-verify")
    finished = run_packager(*arguments)
    assert finished.code == 0, finished.err
    for path in tmp_path.glob("*.gguf"):
        assert planned[path.name] == pytest.approx(path.stat().st_size, rel=0.05)


def test_not_enough_disk_is_refused_with_both_numbers(
    smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 12_345_678, 12_345_678))
    with pytest.raises(PlanRefused) as refused:
        make_plan(request(smollm2, None, tmp_path / "out"))
    (problem,) = refused.value.problems
    assert isinstance(problem, NoSpace)
    assert refused.value.exit_code == 7
    assert "0.01 GB free" in problem.message
    assert "needs 0.5" in problem.message


def test_a_full_size_label_is_not_repeated(smollm2: Path, tmp_path: Path) -> None:
    plan = make_plan(request(smollm2, None, tmp_path, name="SmolLM2-135M-mine", quants=(Quant.Q8_0,)))
    assert plan.file_stem == "SmolLM2-135M-mine"


def test_json_is_the_summary(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    finished = run_packager("plan", tiny("qwen3"), "-o", tmp_path / "out", "--quant", "q8_0", "--json")
    assert finished.code == 0, finished.err
    summary = json.loads(finished.out)
    assert summary["architecture"] == "Qwen3ForCausalLM"
    assert [file["name"].endswith("-Q8_0.gguf") for file in summary["files"]] == [True]


def test_output_that_is_a_file_is_refused(smollm2: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(PlanRefused, match="is a file"):
        make_plan(request(smollm2, None, tmp_path / "out"))


def test_imports_no_torch(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from pathlib import Path; from packager.quants import DEFAULT_QUANTS\n"
        "from packager.plan import BuildRequest, make_plan\n"
        f"make_plan(BuildRequest(base=Path({str(tiny('qwen2.5'))!r}), adapter=None, output=Path('nowhere'),"
        " quants=DEFAULT_QUANTS))\n"
        "print(sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]"


def test_a_name_with_a_tag_of_its_own_is_refused(smollm2: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanRefused) as refused:
        make_plan(request(smollm2, None, tmp_path / "out", name="me/packy:q8_0"))
    assert refused.value.exit_code == 2
    assert refused.value.hint == "Use --name me/packy."


def test_what_a_killed_build_left_is_not_needed_again(smollm2: Path, tmp_path: Path) -> None:
    before = make_plan(request(smollm2, None, tmp_path)).summary.peak_disk_bytes
    folder = tmp_path / UNFINISHED / "quantize-0123456789abcdef"
    folder.mkdir(parents=True)
    (folder / "model-F16.gguf.partial").write_bytes(bytes(100_000_000))
    (folder / "hf").mkdir()
    with (folder / "hf" / "model.safetensors.partial").open("wb") as file:
        file.truncate(300_000_000)  # a hole: nothing is on the disk yet
    saved = before - make_plan(request(smollm2, None, tmp_path)).summary.peak_disk_bytes
    assert saved == pytest.approx(100_000_000, rel=1e-3)


def test_every_adapter_of_a_hub_is_named_with_its_commit(
    tiny: Callable[[str], Path], tiny_lora: Callable[[str], Path], tmp_path: Path
) -> None:
    folders = [
        tmp_path / f"models--org--{name}" / "snapshots" / (digit * 40) for name, digit in (("sft", "a"), ("dpo", "b"))
    ]
    for folder in folders:
        shutil.copytree(tiny_lora("qwen2.5"), folder)
    plan = make_plan(request(tiny("qwen2.5"), folders[0], tmp_path / "out", more_adapters=(folders[1],)))
    expected = [f"adapter from hf:org/sft at {'a' * 40}", f"adapter from hf:org/dpo at {'b' * 40}"]
    assert [note for note in plan.summary.notes if note.startswith("adapter")] == expected
    assert plan.template.prepare_command.endswith(" sft --adapter dpo -o hf")
