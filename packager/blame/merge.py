"""The first stage: the adapter's updates added to the base's weights."""

from __future__ import annotations

from pathlib import Path

from packager.artifacts import Adapter, Checkpoint, Outcome
from packager.blame.tensors import WORST, tensor_fault
from packager.chat.probes import core_probes
from packager.engines.engine import NotSupported
from packager.engines.offload import offload_for
from packager.engines.transformers import Reference
from packager.errors import InputInvalid, UnsafeInput, Unsupported
from packager.evidence import Stage, StageFinding
from packager.formats.checkpoint import read_checkpoint
from packager.parity.logits import kl_nats
from packager.weights.checkpoint_errors import checkpoint_errors
from packager.weights.merge_proof import merged_logprobs
from packager.weights.tensor_errors import TensorComparison

MERGED_FOLDER = "hf"  # what `packager merge -o BUILD/hf` writes
_MOST_KL_NATS = 1e-6  # two float32 sums taken in another order give 1e-9


def merge_finding(
    base: Checkpoint, adapter: Adapter | None, template: str, folder: Path, *, memory_bytes: int | None
) -> StageFinding:
    """Compare one prompt through merged and unmerged weights, and the merged checkpoint beside the files if there is one.

    Args:
        base: The checkpoint.
        adapter: The fine-tune.
        template: The canonical template's text.
        folder: The build's; a merged checkpoint is in its `hf`.
        memory_bytes: The memory that one model in float32 may take; None for what is free.
    """
    if adapter is None:
        return _found(Outcome.NOT_CHECKED, "there is no adapter to merge")
    said = ""
    if (folder / MERGED_FOLDER / "config.json").is_file():
        try:
            tensors = checkpoint_errors(read_checkpoint(folder / MERGED_FOLDER), base, adapter)
        except (InputInvalid, Unsupported, UnsafeInput) as error:
            return _found(Outcome.FAILED, f"{MERGED_FOLDER} cannot be read: {error.message}")
        if tensor_fault(tensors):
            return _found(Outcome.FAILED, f"{MERGED_FOLDER}, {tensor_fault(tensors)}", tensors)
        said = f"; {len(tensors.tensors)} tensors of {MERGED_FOLDER} are right"
    if offload_for(base, folder, memory_bytes) is not None:
        return _found(Outcome.NOT_CHECKED, f"a model in float32 does not fit into memory to exchange its weights{said}")
    try:
        kl = _kl_nats(base, adapter, template)
    except (InputInvalid, Unsupported) as error:
        return _found(Outcome.NOT_CHECKED, error.message)
    outcome = Outcome.PASSED if kl <= _MOST_KL_NATS else Outcome.FAILED
    return _found(outcome, f"mean KL {kl:.1e} nats to unmerged, both in float32, at most {_MOST_KL_NATS:.0e}{said}")


def _kl_nats(base: Checkpoint, adapter: Adapter, template: str) -> float:
    reference = Reference(base.folder, adapter, template)
    prompts = (reference.tokens(conversation) for conversation in core_probes())
    ids = next(ids for ids in prompts if not isinstance(ids, NotSupported))  # the verdict had one to compare
    unmerged, merged = merged_logprobs(base, adapter, template, ids)
    return float(kl_nats(unmerged, merged).mean())


def _found(outcome: Outcome, detail: str, tensors: TensorComparison | None = None) -> StageFinding:
    worst = tensors.worst[:WORST] if tensors is not None else ()
    return StageFinding(stage=Stage.MERGE, subject="", outcome=outcome, detail=detail, worst=worst)
