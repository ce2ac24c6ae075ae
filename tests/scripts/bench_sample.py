"""Results with round figures, so that a reader of a test can check every cell."""

from __future__ import annotations

from dataclasses import replace

from scripts.benchmark.conversions import FloorCost
from scripts.benchmark.process_tree import Cost
from scripts.benchmark.results import Machine, Prediction, Resumed, Round, SizeResult

MACHINE = Machine(
    processor="Z80", cores=2, memory_bytes=24_000_000_000, system="Linux z80", python="3.11.0", packages=("torch 2",)
)


def cost(seconds: float, gigabytes: float) -> Cost:
    size = int(gigabytes * 1e9)
    return Cost(
        seconds=seconds, cpu_seconds=2 * seconds, peak_bytes=size, tree_bytes=size * 3 // 2, read_bytes=2 * size,
        disk_read_bytes=size // 2, written_bytes=3 * size, peak_disk_bytes=4 * size,
    )  # fmt: skip


def one_round(chain: float, packager: float, floor: float) -> Round:
    return Round(
        chain=cost(chain, 4),
        llamafactory=None,
        packager=cost(packager, 1),
        floor=FloorCost(seconds=floor, cpu_seconds=2 * floor),
    )


HALF = SizeResult(
    size="0.5B",
    published="Qwen2.5-0.5B",
    parameters=500_000_000,
    outputs=("f16", "q8_0"),
    date="2026-01-02",
    machine=MACHINE,
    prediction=Prediction(peak_disk_bytes=4_400_000_000, peak_memory_bytes=1_200_000_000),
    rounds=(one_round(40, 10, 8), one_round(50, 20, 10), one_round(60, 12, 10)),
    resumed=None,
)
FOURFOLD = replace(
    HALF,
    size="2B",
    published="Qwen2.5-2B",
    parameters=2_000_000_000,
    rounds=(one_round(200, 48, 40),),
    resumed=Resumed(
        killed_at=0.5, before_bytes=3_000_000_000, after_bytes=3_500_000_000, output_bytes=6_000_000_000,
        after_seconds=30.0, equal=True,
    ),
)  # fmt: skip
