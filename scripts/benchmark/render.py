"""Results as the tables of docs/bench.md: no figure there is typed by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from scripts.benchmark.growth import Line, fit_exponent, fit_line
from scripts.benchmark.process_tree import Cost
from scripts.benchmark.results import Machine, Round, SizeResult

BEGIN, END = "<!-- measured: scripts/bench --render -->", "<!-- end of measured -->"
GB = 1e9
SIDES: dict[str, Callable[[Round], Cost | None]] = {
    "usual chain": lambda run: run.chain,
    "LLaMA-Factory + llama.cpp": lambda run: run.llamafactory,
    "packager": lambda run: run.packager,
}
_HEAD = (
    "side", "time", "packager / side", "processor", "largest process", "all processes", "read", "from disk",
    "written", "peak disk",
)  # fmt: skip


def render(results: tuple[SizeResult, ...]) -> str:
    """Give everything that was measured as Markdown."""
    parts = [_size(result) for result in results]
    if len(results) > 1:
        parts.append(_growth(results))
    parts += [_machine(machine, results) for machine in dict.fromkeys(result.machine for result in results)]
    return "\n\n".join(parts) + "\n"


def render_into(page: Path, results: tuple[SizeResult, ...]) -> None:
    """Put the tables between the two marks of a page."""
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"error: {page}: no {BEGIN} before {END}")
    page.write_text(f"{before}{BEGIN}\n\n{render(results)}\n{END}{after}", encoding="utf-8")


def ratio(result: SizeResult, side: Callable[[Round], float | None]) -> float | None:
    """Give the median of packager's time divided by another's in the same round."""

    def one(run: Round) -> float | None:
        other = side(run)
        return run.packager.seconds / other if other is not None else None

    return result.median(one)


def _size(result: SizeResult) -> str:
    rows = [_HEAD, *(_side(result, title, side) for title, side in SIDES.items()), _floor(result)]
    runs = len(result.rounds)
    title = f"### {result.size}: the shape of {result.published}, {result.parameters / GB:.2f} billion parameters"
    outputs = ", ".join(result.outputs)
    lines = [title, "", f"To {outputs}; medians of {runs} run{'s' * (runs != 1)} of each side, {result.date}.", ""]
    return "\n".join([*lines, *_table(rows), "", _predicted(result), *_resumed(result)])


def _side(result: SizeResult, title: str, side: Callable[[Round], Cost | None]) -> tuple[str, ...]:
    def median(figure: Callable[[Cost], float]) -> float | None:
        def of_run(run: Round) -> float | None:
            cost = side(run)
            return figure(cost) if cost is not None else None

        return result.median(of_run)

    time, _ = _costs(side)
    seconds = result.median(time)
    if seconds is None:
        return (title, "not measured", *[""] * (len(_HEAD) - 2))
    return (
        title,
        _seconds(seconds),
        _number(ratio(result, time)),
        _seconds(median(lambda cost: cost.cpu_seconds)),
        _gb(median(lambda cost: cost.peak_bytes)),
        _gb(median(lambda cost: cost.tree_bytes)),
        _gb(median(lambda cost: cost.read_bytes)),
        _gb(median(lambda cost: cost.disk_read_bytes)),
        _gb(median(lambda cost: cost.written_bytes)),
        _gb(median(lambda cost: cost.peak_disk_bytes)),
    )


def _floor(result: SizeResult) -> tuple[str, ...]:
    seconds = result.median(lambda run: run.floor.seconds)
    processor = result.median(lambda run: run.floor.cpu_seconds)
    over = _number(ratio(result, lambda run: run.floor.seconds))
    return ("kernels alone, from memory", _seconds(seconds), over, _seconds(processor), *[""] * (len(_HEAD) - 4))


def _predicted(result: SizeResult) -> str:
    memory = result.median(lambda run: run.packager.tree_bytes) or 0
    disk = result.median(lambda run: run.packager.peak_disk_bytes) or 0
    plan = result.prediction
    return (
        f"`packager plan` said {_gb(plan.peak_memory_bytes)} of memory ({_off(plan.peak_memory_bytes, memory)}) "
        f"and {_gb(plan.peak_disk_bytes)} of disk ({_off(plan.peak_disk_bytes, disk)})."
    )


def _resumed(result: SizeResult) -> list[str]:
    found = result.resumed
    if found is None:
        return []
    equal = "the same bytes as" if found.equal else "**other bytes than**"
    return [
        "",
        f"Killed at {found.killed_at:.0%} of the output and run again: the second run took {_seconds(found.after_seconds)} and "
        f"wrote {_gb(found.after_bytes)}; {_gb(found.repeated_bytes)} of {_gb(found.output_bytes)} were written twice. "
        f"The files have {equal} those of a build that was not killed.",
    ]


def _growth(results: tuple[SizeResult, ...]) -> str:
    rows = [("growth with parameters", "exponent of time", "time", "exponent of memory", "memory")]
    figures = {title: _costs(side) for title, side in SIDES.items()}
    figures["kernels alone, from memory"] = (lambda run: run.floor.seconds, lambda run: None)
    for title, (seconds, memory) in figures.items():
        time_exponent, time_line = _fits(results, seconds, "{:.1f} s {:+.1f} s per billion", 1.0)
        memory_exponent, memory_line = _fits(results, memory, "{:.2f} GB {:+.2f} GB per billion", GB)
        rows.append((title, time_exponent, time_line, memory_exponent, memory_line))
    ours, floor = (_line_of(results, figures[title][0]) for title in ("packager", "kernels alone, from memory"))
    note = (
        "An exponent of 1 is linear growth, 0 is none; memory is that of all processes together. For every further billion "
        f"parameters packager takes {ours.slope / floor.slope:.2f} times as long as the kernels alone."
    )
    return "\n".join(["### Growth", "", *_table(rows), "", note])


def _costs(side: Callable[[Round], Cost | None]) -> tuple[Callable[[Round], float | None], ...]:
    def seconds(run: Round) -> float | None:
        cost = side(run)
        return cost.seconds if cost is not None else None

    def memory(run: Round) -> float | None:
        cost = side(run)
        return cost.tree_bytes if cost is not None else None

    return seconds, memory


def _fits(
    results: tuple[SizeResult, ...], figure: Callable[[Round], float | None], words: str, unit: float
) -> tuple[str, str]:
    xs, ys = _points(results, figure)
    if len(xs) < 2:
        return "", ""
    line = fit_line(xs, ys)
    return f"{fit_exponent(xs, ys):.2f}", words.format(line.fixed / unit, line.slope / unit)


def _line_of(results: tuple[SizeResult, ...], figure: Callable[[Round], float | None]) -> Line:
    return fit_line(*_points(results, figure))


def _points(
    results: tuple[SizeResult, ...], figure: Callable[[Round], float | None]
) -> tuple[list[float], list[float]]:
    """Give billions of parameters and medians, for the sizes that have the figure."""
    points = [(result.parameters / GB, value) for result in results if (value := result.median(figure)) is not None]
    return [x for x, _ in points], [y for _, y in points]


def _machine(machine: Machine, results: tuple[SizeResult, ...]) -> str:
    sizes = ", ".join(result.size for result in results if result.machine == machine)
    return (
        f"Measured ({sizes}) on {machine.processor}, {machine.cores} cores, {_gb(machine.memory_bytes)} of memory, "
        f"{machine.system}, Python {machine.python}, {', '.join(machine.packages)}."
    )


def _table(rows: Iterable[tuple[str, ...]]) -> list[str]:
    head, *body = rows
    return [_line(head), "|" + "---|" * len(head), *map(_line, body)]


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def _off(said: float, measured: float) -> str:
    return f"{said / measured - 1:+.0%} of the measured {_gb(measured)}" if measured else "not measured"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} s"


def _gb(value: float | None) -> str:
    return "" if value is None else f"{value / GB:.2f} GB"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
