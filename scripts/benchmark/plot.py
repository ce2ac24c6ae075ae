# /// script
# requires-python = ">=3.11"
# dependencies = ["matplotlib==3.10.7"]
# ///
"""Draws docs/bench.json as docs/bench.svg: time and memory against the number of parameters.

Run by `scripts/bench --render` with uv, which gives it matplotlib and nothing of the project: `plot.py RESULTS.json PLOT.svg`.
The SVG carries the digest of the JSON that it shows.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl  # type: ignore[import-not-found,unused-ignore]

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "bench"  # the same JSON gives the same file
mpl.rcParams |= {"font.size": 9, "svg.fonttype": "none", "font.family": ["DejaVu Sans", "sans-serif"]}
import matplotlib.pyplot as plt  # type: ignore[import-not-found,unused-ignore]  # noqa: E402  # after the backend

SIDES = {
    "chain": ("usual chain", "#b3541e", "o"),
    "llamafactory": ("LLaMA-Factory + llama.cpp", "#7b5ea7", "s"),
    "packager": ("packager", "#1f6f8b", "D"),
    "floor": ("kernels alone, from memory", "#8a8a8a", "^"),
}


def points(results: list[dict[str, Any]], side: str, figure: str, unit: float) -> tuple[list[float], list[float]]:
    """Give billions of parameters and medians of a figure, where it was measured."""
    xs, ys = [], []
    for result in results:
        found = [run[side][figure] / unit for run in result["rounds"] if run[side] is not None]
        if found:
            xs.append(result["parameters"] / 1e9)
            ys.append(statistics.median(found))
    return xs, ys


def draw(results: list[dict[str, Any]], digest: str, output: Path) -> None:
    """Draw both plots into one file."""
    figure, (time, memory) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for side, (label, color, marker) in SIDES.items():
        style = {"label": label, "color": color, "marker": marker, "markersize": 4.5, "linewidth": 1.4}
        xs, ys = points(results, side, "seconds", 1.0)
        if xs:
            time.plot(xs, ys, **style, linestyle="--" if side == "floor" else "-")
        if side != "floor":
            xs, ys = points(results, side, "tree_bytes", 1e9)
            if xs:
                memory.plot(xs, ys, **style)
    sizes = [result["parameters"] / 1e9 for result in results]
    for axes, title in ((time, "seconds"), (memory, "peak memory of all processes, GB")):
        axes.set(title=title, xscale="log", yscale="log", xlabel="parameters")
        axes.set_xticks(sizes, [result["size"] for result in results])
        axes.minorticks_off()
        axes.yaxis.set_major_locator(mpl.ticker.LogLocator(base=10, subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
        axes.grid(color="#e4e4e4", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*time.get_legend_handles_labels(), loc="outside lower center", ncols=len(SIDES), frameon=False)
    figure.savefig(output, format="svg", metadata={"Date": None, "Description": f"sha256:{digest}"})


if __name__ == "__main__":
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    text = source.read_bytes()
    draw(json.loads(text), hashlib.sha256(text).hexdigest(), target)
