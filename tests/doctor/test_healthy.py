"""What packager itself made and registered: nothing is at fault, and everything was looked at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from packager.artifacts import Quant
from packager.doctor.case import Reference
from packager.doctor.finding import Organ
from packager.engines.ollama import OllamaServer
from packager.formats.model_name import ModelName
from packager.stages.modelfile import ModelfileJob, make_modelfile
from packager.stages.register import RegisterJob, register
from tests.doctor.conftest import Doctor
from tests.made_ggufs import make_ggufs


@pytest.mark.parametrize(
    ("family", "quant"),
    [("SmolLM2", Quant.Q4_K_M), ("qwen2.5", Quant.Q8_0), ("qwen3", Quant.Q4_K_M), ("llama3.1", Quant.F16)],
    ids=["SmolLM2-q4_k_m", "qwen2.5-q8_0", "qwen3-q4_k_m", "llama3.1-f16"],
)
def test_a_model_that_packager_made(
    family: str,
    quant: Quant,
    smollm2: Path,
    smollm2_lora: Path,
    tiny: Callable[[str], Path],
    tiny_lora: Callable[[str], Path],
    known: Callable[..., Reference],
    doctor: Doctor,
    ollama_url: str,
    tmp_path: Path,
) -> None:
    base, lora = (smollm2, smollm2_lora) if family == "SmolLM2" else (tiny(family), tiny_lora(family))
    made = make_ggufs(base, lora, (quant,), tmp_path)
    reference = known(base, lora)
    job = ModelfileJob(base=made.base, template=made.template, go=reference.found.go, gguf_name="test.gguf")
    name = ModelName.parse(f"well-{family}:{quant.value}")
    file = made.gguf(quant)
    register(
        RegisterJob(gguf=file, modelfile=make_modelfile(job).modelfile, name=name, replace=False),
        OllamaServer.connect(ollama_url),
    )
    found = doctor(str(name), reference)
    assert not found.findings
    assert not found.not_checked
    assert {healthy.organ for healthy in found.healthy} == set(Organ)
