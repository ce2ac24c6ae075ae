"""A reference larger than memory: the decision, what is said of it, and that the figures are the same."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

from packager.engines.offload import Offload, offload_for
from packager.engines.transformers import Reference
from packager.errors import ToolMissing
from packager.formats.adapter import read_adapter
from packager.formats.checkpoint import read_checkpoint

WEIGHTS_BYTES = 4 * 134_515_008  # SmolLM2-135M


def test_one_that_fits_is_loaded_whole(smollm2: Path, tmp_path: Path) -> None:
    base = read_checkpoint(smollm2)
    assert offload_for(base, tmp_path, WEIGHTS_BYTES) is None


def test_one_byte_too_many_goes_to_the_disk(smollm2: Path, tmp_path: Path) -> None:
    found = offload_for(read_checkpoint(smollm2), tmp_path / "not" / "yet", WEIGHTS_BYTES - 1)
    assert found == Offload(
        weights_bytes=WEIGHTS_BYTES,
        stored_bytes=WEIGHTS_BYTES // 2,
        memory_bytes=WEIGHTS_BYTES - 1,
        folder=tmp_path / "not" / "yet",
    )


@pytest.mark.parametrize(
    ("free", "fits"),
    [(WEIGHTS_BYTES + 1_500_000_000, True), (WEIGHTS_BYTES + 1_400_000_000, False)],
    ids=["just", "not"],
)
def test_room_is_left_for_everything_else(
    free: int, fits: bool, smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
    assert (offload_for(read_checkpoint(smollm2), tmp_path) is None) == fits


def test_the_embedding_and_two_blocks_stay_in_any_case(smollm2: Path, tmp_path: Path) -> None:
    found = offload_for(read_checkpoint(smollm2), tmp_path, 1)
    assert found is not None
    embedding = 4 * 49152 * 576
    assert found.memory_bytes == embedding + 2 * (WEIGHTS_BYTES - embedding) // 30


def test_without_psutil_the_extra_is_named(smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "psutil", None)
    with pytest.raises(ToolMissing, match="psutil"):
        offload_for(read_checkpoint(smollm2), tmp_path)


def test_the_cost_is_in_bytes_and_time() -> None:
    found = Offload(
        weights_bytes=30_000_000_000, stored_bytes=15_000_000_000, memory_bytes=20_000_000_000, folder=Path("cache")
    )
    assert found.cost(192) == (
        "the reference takes 30.0 GB in float32 and 20.0 GB of memory may be used: 5.0 GB are read from the disk again for "
        "each of up to 192 forward passes, 960.0 GB in all (about 16 min at 1 GB/s)"
    )


def test_from_the_disk_every_figure_is_the_same_and_nothing_is_written(
    smollm2: Path,
    smollm2_lora: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "current").mkdir()
    monkeypatch.chdir(tmp_path / "current")
    ids = tuple(range(500, 530))
    lora = read_adapter(smollm2_lora, read_checkpoint(smollm2))
    whole = Reference(smollm2, lora, "")
    expected = whole.next_logprobs(ids)
    whole.close()
    offload = offload_for(read_checkpoint(smollm2), tmp_path / "cache", 250_000_000)
    parked = Reference(smollm2, lora, "", offload=offload)
    np.testing.assert_array_equal(parked.next_logprobs(ids), expected)
    model: Any = parked._model
    in_memory = sum(p.nbytes for p in model.parameters() if p.device.type != "meta")
    assert in_memory < 0.6 * WEIGHTS_BYTES, "the rest is on the disk"
    assert len(list((tmp_path / "cache").iterdir())) == 1
    parked.close()
    assert list((tmp_path / "cache").iterdir()) == []
    assert list((tmp_path / "current").iterdir()) == [], "peft writes a copy of the weights when it is let"
    assert capfd.readouterr() == ("", "")
