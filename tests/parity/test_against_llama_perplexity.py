"""Our measures against llama.cpp's own `llama-perplexity --kl-divergence`: the same files, the same tokens, the same base."""

from __future__ import annotations

import re
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from packager.artifacts import Quant
from packager.engines.llama_cpp import Embedded
from packager.evidence import Part, PartDistance
from packager.parity.logits import joined, part_distance, scores
from packager.sources.llama_cpp_tree import LlamaCppTree
from tests.llama_cpp_tools import convert, quantize

CONTEXT, CHUNKS = 128, 4
TEXT = Path(__file__).parents[2] / "LICENSE"


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What llama-perplexity printed, and what we measure."""

    printed: str
    ours: PartDistance

    def theirs(self, name: str) -> float:
        found = re.search(rf"(?m)^{re.escape(name)}\s*:\s*(-?[\d.]+)", self.printed)
        assert found, self.printed
        return float(found[1])


def run(program: Path, model: Path, *arguments: object) -> str:
    common = ("-m", model, "-c", CONTEXT, "-b", CONTEXT, "-ub", CONTEXT, "-t", 2, "--no-warmup", "-fa", "off")
    command = [str(word) for word in (program, *common, *arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def tokens_of(base_logits: Path) -> np.ndarray[tuple[int, int], np.dtype[np.int32]]:
    """Read the ids that llama-perplexity evaluated: `_logits_`, context, vocabulary, chunks, then the ids."""
    with base_logits.open("rb") as file:
        assert file.read(8) == b"_logits_"
        context, _, chunks = struct.unpack("<3i", file.read(12))
        ids = np.frombuffer(file.read(4 * context * chunks), dtype="<i4")
    return ids.reshape(chunks, context)


def distance(base: Path, model: Path, chunks: np.ndarray[tuple[int, int], np.dtype[np.int32]]) -> PartDistance:
    """Compare as llama-perplexity does: the second half of each chunk, BOS first where the vocabulary asks for it."""
    parts = []
    with Embedded(base, context_tokens=CONTEXT) as one, Embedded(model, context_tokens=CONTEXT) as other:
        bos = one.tokenize("", add_special=True)
        for chunk in chunks.tolist():
            ids = [*bos, *chunk[len(bos) :]]
            start = CONTEXT // 2
            reference, engine = (e.next_logprobs(ids[:-1], start=start) for e in (one, other))
            parts.append(scores(reference, engine, chunk[start + 1 :]))
    return part_distance(joined(parts), subject="", engine="llama.cpp", part=Part.PROMPT)


@pytest.fixture(scope="module")
def f32(smollm2: Path, tree: LlamaCppTree, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(tree, smollm2, "f32", tmp_path_factory.mktemp("f32") / "f32.gguf")


@pytest.fixture(scope="module")
def base_logits(f32: Path, llama_perplexity: Path) -> Iterator[Path]:
    path = f32.with_name("base.kld")
    run(llama_perplexity, f32, "-f", TEXT, "--chunks", CHUNKS, "--kl-divergence-base", path)
    yield path
    path.unlink()


@pytest.fixture(scope="module", params=[Quant.Q8_0, Quant.Q4_K_M], ids=str)
def compared(request: pytest.FixtureRequest, f32: Path, base_logits: Path, llama_perplexity: Path) -> Compared:
    model = quantize(f32, f32.with_name(f"{request.param}.gguf"), request.param)
    printed = run(llama_perplexity, model, "--kl-divergence-base", base_logits, "--kl-divergence")
    return Compared(printed=printed, ours=distance(f32, model, tokens_of(base_logits)))


def test_mean_kl_agrees_within_two_percent(compared: Compared) -> None:
    assert compared.ours.positions == CHUNKS * (CONTEXT // 2 - 1)
    assert compared.ours.mean_kl == pytest.approx(compared.theirs("Mean    KLD"), rel=0.02)


def test_the_other_measures_agree_too(compared: Compared) -> None:
    """Looser where one position out of 252, or the 16 bits that it keeps of the base, decide."""
    ours = compared.ours
    assert ours.perplexity_ratio == pytest.approx(compared.theirs("Mean PPL(Q)/PPL(base)"), rel=0.002)
    assert ours.rms_probability == pytest.approx(compared.theirs("RMS Δp") / 100, rel=0.02)
    assert ours.top1 == pytest.approx(compared.theirs("Same top p") / 100, abs=0.005)
    assert ours.max_kl == pytest.approx(compared.theirs("Maximum KLD"), rel=0.05)
