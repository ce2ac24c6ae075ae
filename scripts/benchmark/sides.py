"""The sides that are compared, each as the commands that a user runs, imports included.

packager: `packager build BASE ADAPTER --no-verify --no-register`.
The usual chain: peft's `merge_and_unload` saved in bfloat16, `convert_hf_to_gguf.py --outtype f16`, and one
`llama_model_quantize` for each further file, all with the versions that packager itself uses.
LLaMA-Factory: its `export` in an environment of its own, then the same converter and quantizer.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from scripts.benchmark.process_tree import Cost, Finished, measure
from scripts.benchmark.shapes import Shape

ROOT = Path(__file__).resolve().parents[2]

_MERGE = """
import sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base, lora, merged = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
PeftModel.from_pretrained(model, lora).merge_and_unload().save_pretrained(merged)
AutoTokenizer.from_pretrained(base).save_pretrained(merged)
"""

_QUANTIZE = """
import sys
import llama_cpp
source, output, *kinds = sys.argv[1:]
for kind in kinds:
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind.upper()}")
    if llama_cpp.llama_model_quantize(source.encode(), f"{output}/{kind}.gguf".encode(), parameters):
        sys.exit(f"llama_model_quantize failed for {kind}")
"""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What every side is given: base, adapter, the wanted outputs, llama.cpp's tree, and LLaMA-Factory's program if any."""

    shape: Shape
    base: Path
    lora: Path
    outputs: tuple[str, ...]
    tree: Path
    llamafactory: Path | None


def run_packager(subject: Subject, output: Path, *, kill_at_bytes: int | None = None) -> Finished:
    """Build with packager into `output`."""
    return measure(_command("build", subject, output), output.parent, environment=_own(), kill_at_bytes=kill_at_bytes)


def predicted(subject: Subject, output: Path) -> dict[str, int]:
    """Ask `packager plan` for `peak_disk_bytes`, `peak_memory_bytes`, and for the files' sizes, `output_bytes`."""
    plan = json.loads(measure(_command("plan", subject, output), output.parent, environment=_own()).out)
    return {
        "peak_disk_bytes": plan["peak_disk_bytes"],
        "peak_memory_bytes": plan["peak_memory_bytes"],
        "output_bytes": sum(file["size_bytes"] for file in plan["files"]),
    }


def run_chain(subject: Subject, output: Path) -> Cost:
    """Merge with peft, convert, quantize, into `output`."""
    output.mkdir()
    merged = output / "merged"
    merge = _python(_MERGE, subject.base, subject.lora, merged)
    return _all([merge, *_converted(subject, merged, output)], output)


def run_llamafactory(subject: Subject, output: Path) -> Cost:
    """Export with LLaMA-Factory, convert, quantize, into `output`."""
    output.mkdir()
    merged, config = output / "merged", output / "export.yaml"
    settings = {
        "model_name_or_path": str(subject.base),
        "adapter_name_or_path": str(subject.lora),
        "template": subject.shape.template,
        "finetuning_type": "lora",
        "export_dir": str(merged),
        "export_size": 5,
        "export_device": "cpu",
        "export_legacy_format": False,
    }
    config.write_text(json.dumps(settings, indent=2))  # JSON is YAML
    return _all([[str(subject.llamafactory), "export", str(config)], *_converted(subject, merged, output)], output)


def _command(verb: str, subject: Subject, output: Path) -> list[str]:
    asked = [str(subject.base), str(subject.lora), "-o", str(output), "--quant", ",".join(subject.outputs)]
    return [sys.executable, "-m", "packager", verb, *asked, "--no-verify", "--no-register", "--json"]


def _converted(subject: Subject, merged: Path, output: Path) -> list[list[str]]:
    f16 = output / "f16.gguf"
    script = str(subject.tree / "convert_hf_to_gguf.py")
    convert = [sys.executable, script, str(merged), "--outtype", "f16", "--outfile", str(f16)]
    further = [name for name in subject.outputs if name != "f16"]
    return [convert, [*_python(_QUANTIZE, f16, output), *further]] if further else [convert]


def _python(code: str, *arguments: Path) -> list[str]:
    return [sys.executable, "-c", code, *map(str, arguments)]


def _all(commands: list[list[str]], output: Path) -> Cost:
    costs = [
        measure(command, output, environment={"HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}).cost for command in commands
    ]
    total = costs[0]
    for cost in costs[1:]:
        total = total.then(cost)
    return total


def _own() -> dict[str, str]:
    """Name the packager of this checkout, whatever the environment has installed; its output is plain."""
    return {"PYTHONPATH": os.fspath(ROOT), "NO_COLOR": "1"}
