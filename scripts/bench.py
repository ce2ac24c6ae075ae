"""Seconds, memory and disk of packager's one pass and of the usual chain, alternating, on the same machine in the same run.

Every side runs as whole processes, imports included, from the same base and adapter (random weights in the shape of
Qwen2.5-0.5B, real tokenizer) to three GGUF files: f16, q8_0, q4_k_m. The ratio of one run is ours divided by the chain's that
ran just before it; on a machine that does other things meanwhile, the ratios say more than the seconds.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from packager.sources.llama_cpp_tree import find_tree

ROOT = Path(__file__).resolve().parent.parent
GB = 1e9
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024

MAKE = """
import json, shutil, sys
import torch
from peft import LoraConfig, get_peft_model
from transformers import Qwen2Config, Qwen2ForCausalLM
base, lora, tokenizer = sys.argv[1:]
config = Qwen2Config(hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
    num_key_value_heads=2, vocab_size=151936, tie_word_embeddings=True, max_position_embeddings=32768, rope_theta=1e6,
    rms_norm_eps=1e-6, dtype="bfloat16", bos_token_id=151643, eos_token_id=151645)
torch.manual_seed(0)
torch.set_default_dtype(torch.bfloat16)
model = Qwen2ForCausalLM(config)
model.save_pretrained(base)
written = json.load(open(base + "/config.json"))
written["architectures"] = ["Qwen2ForCausalLM"]
json.dump(written, open(base + "/config.json", "w"))
kind = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
get_peft_model(model, kind).save_pretrained(lora)
for folder in (base, lora):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer + "/" + name, folder)
"""

CHAIN_MERGE = """
import sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base, lora, merged = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
PeftModel.from_pretrained(model, lora).merge_and_unload().save_pretrained(merged)
AutoTokenizer.from_pretrained(base).save_pretrained(merged)
"""

CHAIN_QUANTIZE = """
import sys
import llama_cpp
source, output = sys.argv[1:]
for name, kind in (("q8_0", llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0), ("q4_k_m", llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M)):
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = kind
    if llama_cpp.llama_model_quantize(source.encode(), f"{output}/{name}.gguf".encode(), parameters):
        sys.exit(1)
"""

OURS = """
import sys
from pathlib import Path
from packager.quants import DEFAULT_QUANTS
from packager.formats.adapter import read_adapter
from packager.formats.checkpoint import read_checkpoint
from packager.sources.llama_cpp_tree import find_tree
from packager.stages.weights import QuantizeJob, quantize
base = read_checkpoint(Path(sys.argv[1]))
quantize(QuantizeJob(base=base, adapter=read_adapter(Path(sys.argv[2]), base), quants=DEFAULT_QUANTS, template=None,
    name="bench", file_stem="bench", output=Path(sys.argv[3]), tree=find_tree(None)))
"""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one side took: wall seconds, the largest process's peak resident memory, and bytes written to disk."""

    seconds: float
    peak_bytes: int
    disk_bytes: int


def main() -> None:
    """Run both sides alternately and print what they cost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with Qwen2.5's tokenizer.json")
    parser.add_argument("--runs", type=int, default=3, help="runs of each side (default 3)")
    arguments = parser.parse_args()
    base, lora = model(arguments.tokenizer)
    tree = converter()
    chain, ours = [], []
    for number in range(1, arguments.runs + 1):
        chain.append(measured(lambda output: chain_commands(base, lora, output, tree)))
        show(f"run {number}  usual chain", chain[-1])
        ours.append(measured(lambda output: [python(OURS, base, lora, output)]))
        show(f"run {number}  packager   ", ours[-1])
    summarise(chain, ours)


def model(tokenizer: Path) -> tuple[Path, Path]:
    """Give the base and the adapter, made once into the user's cache."""
    folder = platformdirs.user_cache_path("packager") / "bench-qwen2.5-0.5b"
    if not folder.is_dir():
        print("making the model (once)", file=sys.stderr)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as staging:
            made = Path(staging) / "model"
            run(python(MAKE, made / "base", made / "lora", tokenizer))
            made.replace(folder)
    return folder / "base", folder / "lora"


def converter() -> Path:
    """Give llama.cpp's tree, so that neither side downloads it while it is measured."""
    return find_tree(None).path


def chain_commands(base: Path, lora: Path, output: Path, tree: Path) -> list[list[str]]:
    """Give the usual chain: peft's merge saved in bfloat16, f16 by the converter, two quants by llama.cpp."""
    merged, f16 = output / "merged", output / "f16.gguf"
    convert = [
        sys.executable,
        str(tree / "convert_hf_to_gguf.py"),
        str(merged),
        "--outtype",
        "f16",
        "--outfile",
        str(f16),
    ]
    return [python(CHAIN_MERGE, base, lora, merged), convert, python(CHAIN_QUANTIZE, f16, output)]


def python(code: str, *arguments: Path) -> list[str]:
    """Give the command that runs a piece of Python."""
    return [sys.executable, "-c", code, *map(str, arguments)]


def measured(commands) -> Cost:  # type: ignore[no-untyped-def]  # a script outside the package
    """Run commands one after the other into an empty folder and add up what they cost."""
    output = Path(tempfile.mkdtemp(prefix="packager-bench-", dir=platformdirs.user_cache_path("packager")))
    try:
        start = time.perf_counter()
        peak = max(run(command) for command in commands(output))
        seconds = time.perf_counter() - start
        disk = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
        return Cost(seconds=seconds, peak_bytes=peak, disk_bytes=disk)
    finally:
        shutil.rmtree(output)


def run(command: list[str]) -> int:
    """Run one command and give its peak resident memory in bytes, that of its children included."""
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    errors = child.stderr.read() if child.stderr else ""
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit(f"error: {' '.join(command)[:200]}: status {child.returncode}\n{errors[-2000:]}")
    return usage.ru_maxrss * MAXRSS_UNIT


def show(title: str, cost: Cost) -> None:
    """Print one line of figures."""
    memory, disk = cost.peak_bytes / GB, cost.disk_bytes / GB
    print(f"{title}  {cost.seconds:6.1f} s  {memory:5.2f} GB peak memory  {disk:5.2f} GB on disk", flush=True)


def summarise(chain: list[Cost], ours: list[Cost]) -> None:
    """Print smallest, median and largest ratio, ours to the chain's."""
    print("\nratio, packager / usual chain      min  median     max")
    for title, key in (("seconds", "seconds"), ("peak memory", "peak_bytes"), ("bytes on disk", "disk_bytes")):
        ratios = [getattr(mine, key) / getattr(theirs, key) for mine, theirs in zip(ours, chain, strict=True)]
        print(f"{title:30}  {min(ratios):6.2f}  {statistics.median(ratios):6.2f}  {max(ratios):6.2f}")


if __name__ == "__main__":
    main()
