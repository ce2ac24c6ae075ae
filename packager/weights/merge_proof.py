"""Whether merging changed anything: one prompt through base + adapter unmerged, and through the merged weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from packager.artifacts import Adapter, Checkpoint
from packager.engines.transformers import Reference
from packager.weights.merged import MergedTensors


def merged_logprobs(
    base: Checkpoint, adapter: Adapter, template: str, ids: tuple[int, ...]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Give the distributions of base + adapter, and those of the base with the merged weights in place of its own.

    One model is in memory at a time; both are float32 on the CPU.

    Args:
        base: The checkpoint.
        adapter: The fine-tune.
        template: The canonical template's text.
        ids: The tokens of a prompt.

    Returns:
        Unmerged and merged, each natural log-probabilities of shape `(len(ids), vocabulary)`, float32.

    Raises:
        InputInvalid: The model cannot be loaded, or transformers names its weights otherwise than the checkpoint.
    """
    reference = Reference(base.folder, adapter, template)
    unmerged = reference.next_logprobs(ids)
    reference.close()
    model = Reference(base.folder, None, template)
    with MergedTensors(base, adapter) as merged:
        model.put_merged(adapter, ((name, merged.whole(name)) for name in sorted(adapter.targets)))
    return unmerged, model.next_logprobs(ids)
