"""The predicted peak of memory against what a process of its own takes, imports included."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from packager.cores import usable_cores
from packager.formats.checkpoint import read_checkpoint
from packager.quants import DEFAULT_QUANTS
from packager.stages.weights import estimate
from packager.weights.memory import BYTES_AHEAD, CACHE_BYTES, estimated_peak_memory

CHILD = """
import sys
from pathlib import Path
from packager.quants import DEFAULT_QUANTS
from packager.formats.checkpoint import read_checkpoint
from packager.sources.llama_cpp_tree import find_tree
from packager.stages.weights import QuantizeJob, quantize
base = read_checkpoint(Path(sys.argv[1]))
quantize(QuantizeJob(base=base, adapter=None, quants=DEFAULT_QUANTS, template=None, name="x", file_stem="x",
    output=Path(sys.argv[2]), tree=find_tree(None)))
# not getrusage: its peak begins with that of the process that started this one
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(status["VmHWM"].split()[0]) * 1024)
"""


@pytest.mark.parametrize("model", ["qwen2.5", "smollm2"])
def test_memory_is_predicted_within_15_percent(
    model: str, tiny: Callable[[str], Path], smollm2: Path, tmp_path: Path
) -> None:
    """A small model with a large vocabulary, and one that fills what may be in flight, with a small one."""
    folder = smollm2 if model == "smollm2" else tiny(model)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    base = read_checkpoint(folder)
    predicted = estimated_peak_memory(base, sum(size for _, size in estimate(base, None, DEFAULT_QUANTS)))
    assert predicted == pytest.approx(int(done.stdout), rel=0.15)


def test_memory_does_not_grow_with_the_model(tiny: Callable[[str], Path]) -> None:
    base = read_checkpoint(tiny("qwen2.5"))
    assert estimated_peak_memory(base, 10**12) == estimated_peak_memory(base, 10**9)
    assert 0 < estimated_peak_memory(base, 10**9) - estimated_peak_memory(base, 0) <= BYTES_AHEAD


def test_fused_experts_and_a_vocabulary_that_is_read_twice_take_more(tiny: Callable[[str], Path]) -> None:
    base = read_checkpoint(tiny("qwen2.5"))
    plain = estimated_peak_memory(base, 10**9)
    experts = dataclasses.replace(base.tensors[0], shape=(16, 5120, 16384))
    assert estimated_peak_memory(dataclasses.replace(base, tensors=(experts,)), 10**9) == plain + 2 * CACHE_BYTES
    llama = dataclasses.replace(base, architecture="LlamaForCausalLM")
    assert 100e6 < estimated_peak_memory(llama, 10**9) - plain - CACHE_BYTES < 300e6


def test_there_is_at_least_one_core() -> None:
    assert usable_cores() >= 1
