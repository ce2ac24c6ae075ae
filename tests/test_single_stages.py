"""One stage at a time gives the files that a whole build gives."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from packager.artifacts import Quant
from packager.formats.checkpoint import read_checkpoint
from packager.formats.gguf import read_gguf
from packager.formats.modelfile import parse_modelfile
from tests.made_ggufs import make_ggufs
from tests.run_packager import error_lines, run_packager

FAMILY = "qwen3"


@pytest.fixture(scope="module")
def merged(
    tiny: Callable[[str], Path], tiny_lora: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("merge") / "merged"
    finished = run_packager("merge", tiny(FAMILY), tiny_lora(FAMILY), "-o", out, "--dtype", "float32")
    assert finished.code == 0, finished.err
    assert str(out / "model.safetensors") in finished.out.splitlines()
    return out


def test_merge_writes_what_peft_writes(
    merged: Path, tiny: Callable[[str], Path], tiny_lora: Callable[[str], Path]
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny(FAMILY), dtype=torch.float32)
    expected = PeftModel.from_pretrained(base, tiny_lora(FAMILY)).merge_and_unload().state_dict()
    ours = load_file(merged / "model.safetensors")
    assert set(ours) == {name for name in expected if name != "lm_head.weight"}  # tied
    for name, tensor in ours.items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=1e-7, msg=name)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_merge_rounds_to_the_type_asked_for(
    dtype: str, merged: Path, tiny: Callable[[str], Path], tiny_lora: Callable[[str], Path], tmp_path: Path
) -> None:
    finished = run_packager("merge", tiny(FAMILY), tiny_lora(FAMILY), "-o", tmp_path / "m", "--dtype", dtype)
    assert finished.code == 0, finished.err
    wide, narrow = load_file(merged / "model.safetensors"), load_file(tmp_path / "m" / "model.safetensors")
    for name, tensor in narrow.items():
        assert torch.equal(tensor, wide[name].to(getattr(torch, dtype)))


def test_merge_defaults_to_the_base_s_type_and_transformers_loads_it(
    tiny: Callable[[str], Path], tiny_lora: Callable[[str], Path], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    finished = run_packager("merge", tiny(FAMILY), tiny_lora(FAMILY), "-o", tmp_path / "m", "--json")
    assert finished.code == 0, finished.err
    assert all(Path(name).is_file() for name in json.loads(finished.out))
    assert read_checkpoint(tmp_path / "m").dtype == read_checkpoint(tiny(FAMILY)).dtype
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert model.dtype == torch.bfloat16
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    assert tokenizer.chat_template == (tmp_path / "m" / "chat_template.jinja").read_text()
    assert (
        json.loads((tmp_path / "m" / "tokenizer_config.json").read_text())["chat_template"] == tokenizer.chat_template
    )


def test_quantizing_our_merge_gives_the_tensors_of_a_build(
    merged: Path, tiny: Callable[[str], Path], tiny_lora: Callable[[str], Path], tmp_path: Path
) -> None:
    two_steps = run_packager("quantize", merged, "-o", tmp_path / "a", "--name", "packy")
    build = ("build", tiny(FAMILY), tiny_lora(FAMILY), "-o", tmp_path / "b", "--name", "packy")
    one_step = run_packager(*build, "--no-register", "--no-verify")
    assert (two_steps.code, one_step.code) == (0, 0), two_steps.err + one_step.err
    names = sorted(path.name for path in (tmp_path / "a").glob("*.gguf"))
    assert names == sorted(path.name for path in (tmp_path / "b").glob("*.gguf"))
    assert len(names) == 3
    for name in names:
        assert _tensor_bytes(tmp_path / "a" / name) == _tensor_bytes(tmp_path / "b" / name)


def test_template_and_modelfile_give_the_files_of_a_build(
    tiny: Callable[[str], Path], tiny_lora: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACKAGER_VLLM", str(tmp_path))  # nobody is there: the files are what is looked at here
    base, adapter, whole, parts = tiny(FAMILY), tiny_lora(FAMILY), tmp_path / "whole", tmp_path / "parts"
    arguments = (base, adapter, "--quant", "q8_0", "--name", "packy")
    assert run_packager("build", *arguments, "-o", whole, "--no-register", "--no-verify").code == 0
    assert run_packager("template", "convert", base, adapter, "-o", parts).code == 0
    gguf = next(whole.glob("*.gguf"))
    finished = run_packager("modelfile", base, adapter, "-o", parts, "--gguf", gguf)
    assert finished.code == 0, finished.err
    for name in ("chat_template.jinja", "ollama.gotmpl", "serve.txt", "Modelfile", "Modelfile.legacy"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()
    modelfile = parse_modelfile((parts / "Modelfile").read_text())
    assert Path(modelfile.gguf).name == gguf.name
    assert modelfile.parameters.stop[0] == "<|im_end|>"
    assert modelfile.parameters.num_ctx == 4096


@pytest.mark.parametrize("flag", ["-q", "--quiet"])
def test_quiet_leaves_the_result_only(flag: str, tiny: Callable[[str], Path], tmp_path: Path) -> None:
    finished = run_packager("template", "convert", tiny(FAMILY), "-o", tmp_path / "out", "--to", "ollama", flag)
    assert finished.code == 0
    assert finished.err == ""
    assert str(tmp_path / "out" / "chat_template.jinja") in finished.out.splitlines()


@pytest.mark.parametrize("command", ["register", "verify"])
def test_a_folder_that_is_no_build_is_refused(command: str, tmp_path: Path, tiny: Callable[[str], Path]) -> None:
    extra = ("--name", "packy") if command == "register" else (tiny(FAMILY),)
    finished = run_packager(command, tmp_path / "nothing", *extra)
    assert finished.code == 3
    assert str(tmp_path / "nothing") in error_lines(finished)[0]


def test_a_template_in_the_modelfile_is_not_ignored_but_refused(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    (gguf,) = make_ggufs(tiny(FAMILY), None, (Quant.Q8_0,), tmp_path).ggufs
    (tmp_path / "Modelfile").write_text(f"FROM ./{gguf.path.name}\nTEMPLATE {{{{ .Prompt }}}}\n")
    finished = run_packager("register", tmp_path, "--name", "packy")
    assert finished.code == 3
    assert "Modelfile: TEMPLATE has no place in it" in error_lines(finished)[0]


def test_a_template_named_by_the_user_is_the_one_in_the_gguf(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    own = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    own += "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    (tmp_path / "own.jinja").write_text(own)
    arguments = ("quantize", tiny(FAMILY), "-o", tmp_path / "out", "--quant", "q8_0")
    finished = run_packager(*arguments, "--template", tmp_path / "own.jinja")
    assert finished.code == 0, finished.err
    header = read_gguf(next((tmp_path / "out").glob("*.gguf")))
    (text,) = [entry.value for entry in header.metadata if entry.key == "tokenizer.chat_template"]
    assert isinstance(text, str)
    assert text.endswith(own)
    assert hashlib.sha256(own.encode()).hexdigest() in text


def test_a_tree_named_by_the_user_that_is_none_is_refused(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    finished = run_packager("quantize", tiny(FAMILY), "-o", tmp_path / "out", "--llama-cpp", tmp_path / "tree")
    assert finished.code == 3
    assert str(tmp_path / "tree") in error_lines(finished)[0]


def _tensor_bytes(path: Path) -> dict[str, bytes]:
    header, data = read_gguf(path), path.read_bytes()
    return {t.name: data[t.offset :][: t.size_bytes] for t in header.tensors}
