"""What a matrix is computed from: the conversations as training saw them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from packager.artifacts import Adapter, AdapterStep, Conversation, Gguf, Message, Quant
from packager.formats.checkpoint import read_checkpoint
from packager.formats.labelled_rows import LabelledRow
from packager.sources.llama_cpp_tree import LlamaCppTree
from packager.stages import weights
from packager.weights import calibration
from tests.small_llamas import SmallLlama

TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
ROW = LabelledRow(
    number=1,
    sha256="0" * 64,
    conversation=Conversation(id="line-1", group="USER", messages=(Message(role="user", content="Hi"),)),
    label="Hello",
)


@pytest.mark.parametrize("more_tokens", [False, True], ids=["the-bases-tokenizer", "the-adapters"])
def test_named_tokens_are_those_of_the_fine_tune(
    more_tokens: bool, tmp_path: Path, tree: LlamaCppTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, lora = tmp_path / "base", tmp_path / "lora"
    SmallLlama(hidden=64, inner=64, layers=1).write(base)
    shutil.copytree(base, lora)
    config = json.loads((lora / "tokenizer_config.json").read_text())
    (lora / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": "<|im_end|>"}))
    adapter = Adapter(
        steps=(AdapterStep(folder=lora),), name="lora", base_name=None, updates=(), chat_template=None,
        tokenizer_folder=lora if more_tokens else None,
    )  # fmt: skip
    passed = weights.QuantizeJob(
        base=read_checkpoint(base), adapter=adapter, quants=(Quant.Q8_0,), template=None, name="", file_stem="m",
        output=tmp_path, tree=tree, keep_hf=None,
    )  # fmt: skip
    found: list[str] = []

    def quantize(job: weights.QuantizeJob, **_: Any) -> tuple[Gguf, ...]:
        assert job.quants == (Quant.F16,)
        return (Gguf(path=tmp_path / "m-F16.gguf", quant=Quant.F16, sha256="", size_bytes=0),)

    monkeypatch.setattr(weights, "quantize", quantize)
    monkeypatch.setattr(calibration, "calibrate", lambda gguf, texts, output, **_: found.extend(texts))
    job = weights.CalibrateJob(
        pass_through=passed, rows=(ROW,), chat_template=TEMPLATE, dataset="talks.jsonl", output=tmp_path / "m.gguf"
    )
    weights.calibrate(job)
    end = "<|im_end|>" if more_tokens else "</s>"
    assert found == [f"user: Hi{end}assistant: Hello{end}"]
