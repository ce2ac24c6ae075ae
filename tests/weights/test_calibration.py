"""An importance matrix that llama.cpp computes against the inputs of the same layers in transformers, float32 on both sides."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from packager.artifacts import Quant
from packager.engines.llama_cpp import Embedded
from packager.errors import InputInvalid, Unsupported
from packager.events import Advanced, Event
from packager.formats.checkpoint import read_checkpoint
from packager.formats.gguf import read_gguf
from packager.sources.llama_cpp_tree import LlamaCppTree
from packager.stages.weights import QuantizeJob, quantize
from packager.weights.calibration import CHUNK_TOKENS, Collector, calibrate
from packager.weights.importance import read_importance
from tests.small_llamas import SmallLlama

TEXTS = [
    f"<s>Weights are numbers; adapters are {number} small matrices, and the dog sleeps on.</s>" for number in range(60)
]
LINEAR = {
    "self_attn.q_proj": "attn_q", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.down_proj": "ffn_down",
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tree: LlamaCppTree, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], tuple[Path, Path]]:
    """A checkpoint with so many experts, and its f32 file."""

    def make(experts: int) -> tuple[Path, Path]:
        folder = tmp_path_factory.mktemp("model")
        SmallLlama(hidden=64, inner=96, layers=2, experts=experts).write(folder / "base")
        job = QuantizeJob(
            base=read_checkpoint(folder / "base"), adapter=None, quants=(Quant.F32,), template=None, name="",
            file_stem="m", output=folder, tree=tree,
        )  # fmt: skip
        return folder / "base", quantize(job)[0].path

    return make


def chunks_of(gguf: Path) -> np.ndarray:
    """The token ids that a stream of TEXTS gives, in whole chunks, BOS at the start of each."""
    with Embedded(gguf, vocabulary_only=True) as engine:
        ids = [token for text in TEXTS for token in engine.tokenize(text, add_special=False)]
    found = np.array(ids[: len(ids) // CHUNK_TOKENS * CHUNK_TOKENS]).reshape(-1, CHUNK_TOKENS)
    found[:, 0] = 1
    return found


def test_the_sums_are_those_of_transformers(made: Callable[[int], tuple[Path, Path]], tmp_path: Path) -> None:
    import torch
    from transformers import LlamaForCausalLM

    base, gguf = made(0)
    events: list[Event] = []
    count = calibrate(gguf, TEXTS, tmp_path / "m.gguf", dataset="talks.jsonl", emit=events.append)
    ids = chunks_of(gguf)
    assert count == len(ids) == sum(isinstance(event, Advanced) for event in events) >= 2

    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    sums: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_: object, inputs: tuple[torch.Tensor]) -> None:
            sums[name] = sums.get(name, 0) + inputs[0].double().square().sum(dim=(0, 1))

        return hook

    for layer in range(2):
        for module, name in LINEAR.items():
            found = model.get_submodule(f"model.layers.{layer}.{module}")
            found.register_forward_pre_hook(keep(f"blk.{layer}.{name}.weight"))
    with torch.no_grad():
        model(torch.tensor(ids))
    read = read_importance(tmp_path / "m.gguf")
    for name, expected in sums.items():
        np.testing.assert_allclose(read.values[name].numpy(), (expected / ids.size).numpy(), rtol=2e-3)
    assert read.names == {
        f"blk.{layer}.{name}.weight" for layer in range(2) for name in (*LINEAR.values(), "attn_k", "ffn_up")
    }
    assert (read.datasets, read.chunks) == (("talks.jsonl",), count)


def test_experts_count_the_tokens_that_went_to_them(made: Callable[[int], tuple[Path, Path]], tmp_path: Path) -> None:
    import torch
    from transformers import MixtralForCausalLM

    base, gguf = made(4)
    calibrate(gguf, TEXTS, tmp_path / "m.gguf", dataset="talks.jsonl")
    ids = chunks_of(gguf)
    model = MixtralForCausalLM.from_pretrained(base, dtype=torch.float32)
    inputs: list[torch.Tensor] = []
    first = model.model.layers[0].mlp
    first.register_forward_pre_hook(lambda _, given: inputs.append(given[0].reshape(-1, 64)))
    with torch.no_grad():
        model(torch.tensor(ids))
        hidden = inputs[0]
        chosen = (hidden @ first.gate.weight.T).topk(2, dim=-1).indices
    header = read_gguf(tmp_path / "m.gguf")
    read = read_importance(tmp_path / "m.gguf").values["blk.0.ffn_up_exps.weight"].reshape(4, 64)
    expected = [hidden[(chosen == expert).any(dim=1)] for expert in range(4)]
    np.testing.assert_allclose(read.numpy(), [rows.square().mean(dim=0).numpy() for rows in expected], rtol=2e-3)
    counts = next(tensor for tensor in header.tensors if tensor.name == "blk.0.ffn_up_exps.weight.counts")
    with (tmp_path / "m.gguf").open("rb") as file:
        file.seek(counts.offset)
        found = np.frombuffer(file.read(counts.size_bytes), np.float32)
    assert found.tolist() == [len(rows) for rows in expected]
    assert found.sum() == 2 * ids.size


def test_llama_cpps_own_program_reads_it(
    made: Callable[[int], tuple[Path, Path]], llama_quantize_program: Path, tmp_path: Path
) -> None:
    _, gguf = made(0)
    count = calibrate(gguf, TEXTS, tmp_path / "m.gguf", dataset="talks.jsonl")
    command = [llama_quantize_program, "--imatrix", tmp_path / "m.gguf", gguf, tmp_path / "out.gguf", "q4_k_m", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"loaded 14 importance matrix entries from {tmp_path / 'm.gguf'} computed on {count} chunks" in done.stdout
    header = read_gguf(tmp_path / "out.gguf")
    assert header.value("quantize.imatrix.dataset") == "talks.jsonl"
    assert header.value("quantize.imatrix.entries_count") == 14


def test_too_little_text_and_files_that_are_no_model_are_refused(
    made: Callable[[int], tuple[Path, Path]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _, gguf = made(0)
    with pytest.raises(InputInvalid, match=r"talks.jsonl: \d+ tokens, and an importance matrix takes 1024 at least"):
        calibrate(gguf, TEXTS[:5], tmp_path / "m.gguf", dataset="talks.jsonl")
    (tmp_path / "broken.gguf").write_bytes(gguf.read_bytes()[:1000])
    with pytest.raises(Unsupported, match=r"broken\.gguf: llama.cpp cannot load it"):
        calibrate(tmp_path / "broken.gguf", TEXTS, tmp_path / "m.gguf", dataset="talks.jsonl")
    assert not (tmp_path / "m.gguf").exists()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("happens", "error"),
    [
        pytest.param(lambda: signal.raise_signal(signal.SIGINT), KeyboardInterrupt, id="ctrl-c"),
        pytest.param(lambda: np.zeros(2) + np.zeros(3), ValueError, id="an-error"),
    ],
)
def test_what_happens_while_llama_cpp_evaluates_ends_it(
    happens: Callable[[], object],
    error: type[BaseException],
    made: Callable[[int], tuple[Path, Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Ctypes drops what is raised inside a callback, which is where Ctrl-C finds the main thread."""
    _, gguf = made(0)
    seen: list[bool] = []
    see = Collector.see

    def shown(self: Collector, tensor: object, ask: bool) -> bool:
        seen.append(ask)
        if len(seen) == 20:
            happens()
        return see(self, tensor, ask)

    monkeypatch.setattr(Collector, "see", shown)
    events: list[Event] = []
    with pytest.raises(error):
        calibrate(gguf, TEXTS, tmp_path / "m.gguf", dataset="talks.jsonl", emit=events.append)
    assert events == []
    assert not (tmp_path / "m.gguf").exists()
    assert capfd.readouterr().err == ""
