"""Where everything stands in the two plots, in the units of their view boxes; page.html.jinja draws it.

One is 400 units wide, the other 300, so that their words have nearly the same size on a phone and on a desk.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from packager.evidence import FileTensors, TensorError
from packager.parity.report import Report
from packager.report_page.figures import is_number, nats, size
from packager.report_page.summary import ENGINES, mean_kl

_LEFT, _TOP, _BOTTOM = 44.0, 14.0, 226.0
_KL_RIGHT, _TENSOR_RIGHT = 380.0, 294.0
_OUTSIDE = 26.0  # width of the strip for tensors that stand in no block
_ZERO_LINE = 14.0  # a logarithm has no zero: exact tensors stand on a line of their own below the axis


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A mark of an axis, `at` its place along it."""

    at: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Point:
    """One file on one engine: how large, how far; `beyond` when the value is no number, and stands at the upper edge."""

    subject: str
    engine: str
    x: float
    y: float
    limit_y: float | None
    size_text: str
    kl_text: str
    limit_text: str
    kept: bool
    beyond: bool


@dataclass(frozen=True, kw_only=True)
class KlPlot:
    """Mean KL over file size: x linear from 0 in bytes, y logarithmic in nats."""

    right: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    points: tuple[Point, ...]


@dataclass(frozen=True, kw_only=True)
class Dot:
    """One tensor: its error and what was expected, and whether it is further away than expected."""

    x: float
    y: float
    expected_y: float
    over: bool
    tensor: TensorError


@dataclass(frozen=True, kw_only=True)
class TensorPlot:
    """One file's tensors: x the block, what stands in none at the left; y logarithmic, exact ones on a line below."""

    subject: str
    right: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    zero_y: float
    outside_x: float
    dots: tuple[Dot, ...]
    worst: TensorError
    over: int


def kl_plot(report: Report) -> KlPlot | None:
    """Place every file that was measured, with the limit of its quant; None when none was."""
    found = [
        (gguf, engine, value, report.gates.of(gguf.quant).mean_kl)
        for gguf in report.ggufs
        for engine in ENGINES
        if (value := mean_kl(report, gguf.quant.value, engine)) is not None
    ]
    if not found:
        return None
    low, high = _decades([number for _, _, *pair in found for number in pair if number is not None])
    widest = max(gguf.size_bytes for gguf, *_ in found) * 1.12 or 1.0
    points = []
    for gguf, engine, value, limit in found:
        points.append(
            Point(
                subject=gguf.quant.value,
                engine=engine,
                x=_round(_LEFT + (_KL_RIGHT - _LEFT) * gguf.size_bytes / widest),
                y=_height(value, low, high),
                limit_y=_height(limit, low, high) if limit is not None else None,
                size_text=size(gguf.size_bytes),
                kl_text=nats(value),
                limit_text=nats(limit) if limit is not None else "",
                kept=is_number(value) and (limit is None or value <= limit),
                beyond=not is_number(value),
            )
        )
    step = _step(widest)
    x_ticks = tuple(
        Tick(at=_round(_LEFT + (_KL_RIGHT - _LEFT) * k * step / widest), text=size(round(k * step)) if k else "0")
        for k in range(int(widest / step) + 1)
    )
    return KlPlot(right=_KL_RIGHT, x_ticks=x_ticks, y_ticks=_y_ticks(low, high), points=tuple(points))


def tensor_plots(report: Report) -> tuple[TensorPlot, ...]:
    """Place every tensor of every file, all on the same axes."""
    files = [file for file in report.evidence.tensors if file.tensors]
    if not files:
        return ()
    every = [tensor for file in files for tensor in file.tensors]
    low, high = _decades([error for tensor in every for error in (tensor.relative_error, tensor.expected_error)])
    layers = 1 + max((tensor.layer for tensor in every if tensor.layer is not None), default=0)
    return tuple(_tensor_plot(file, layers, low, high) for file in files)


def excess(tensor: TensorError) -> float:
    """Give by how much a tensor is further away than expected; what is no number is furthest of all."""
    return tensor.relative_error - tensor.expected_error if is_number(tensor.relative_error) else math.inf


def is_over(tensor: TensorError) -> bool:
    """Whether a tensor is further away than its type's own rounding puts it."""
    return tensor.worst_row is not None and excess(tensor) > 0


def _tensor_plot(file: FileTensors, layers: int, low: int, high: int) -> TensorPlot:
    first = _LEFT + _OUTSIDE
    pitch = (_TENSOR_RIGHT - first) / layers
    bottom = _BOTTOM - _ZERO_LINE
    dots = []
    slots = [0] * (layers + 1)  # dots of one block stand side by side, in the file's order
    per_block = [sum(tensor.layer == layer for tensor in file.tensors) for layer in range(layers)]
    outside = sum(tensor.layer is None for tensor in file.tensors)
    for tensor in file.tensors:
        block = layers if tensor.layer is None else tensor.layer
        start, width, count = (
            (_LEFT, _OUTSIDE, outside)
            if tensor.layer is None
            else (first + pitch * tensor.layer, pitch, per_block[tensor.layer])
        )
        slots[block] += 1
        dots.append(
            Dot(
                x=_round(start + width * slots[block] / (count + 1)),
                y=_height(tensor.relative_error, low, high, bottom=bottom),
                expected_y=_height(tensor.expected_error, low, high, bottom=bottom),
                over=is_over(tensor),
                tensor=tensor,
            )
        )
    every = max(1, -(-layers // 7))
    return TensorPlot(
        subject=file.subject,
        right=_TENSOR_RIGHT,
        x_ticks=tuple(
            Tick(at=_round(first + pitch * (layer + 0.5)), text=str(layer)) for layer in range(0, layers, every)
        ),
        y_ticks=_y_ticks(low, high, bottom=bottom),
        zero_y=_BOTTOM,
        outside_x=_round(_LEFT + _OUTSIDE),
        dots=tuple(dots),
        worst=max(file.tensors, key=lambda tensor: (is_over(tensor), excess(tensor), tensor.relative_error)),
        over=sum(dot.over for dot in dots),
    )


def _decades(values: list[float]) -> tuple[int, int]:
    """Give the powers of ten around all values above zero; at least one decade."""
    exponents = [math.log10(value) for value in values if is_number(value) and value > 0] or [0.0]
    low, high = math.floor(min(exponents)), math.ceil(max(exponents))
    return low, max(high, low + 1)


def _height(value: float, low: int, high: int, *, bottom: float = _BOTTOM) -> float:
    """Place a value; zero on the lowest line of the plot, what is no number at its upper edge."""
    if not is_number(value):
        return _TOP
    if value <= 0:
        return _BOTTOM
    return _round(bottom - (bottom - _TOP) * (math.log10(value) - low) / (high - low))


def _y_ticks(low: int, high: int, *, bottom: float = _BOTTOM) -> tuple[Tick, ...]:
    every = max(1, -(-(high - low) // 6))
    return tuple(
        Tick(at=_height(10.0**exponent, low, high, bottom=bottom), text=_power(exponent))
        for exponent in range(low, high + 1, every)
    )


def _power(exponent: int) -> str:
    """Give a power of ten as an axis has it: `0.01`, `10⁻⁵`."""
    if -3 <= exponent <= 3:
        return f"{10.0**exponent:g}"
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _step(total: float) -> float:
    """Give the step of about four ticks: 1, 2 or 5 times a power of ten."""
    raw = total / 4
    power = float(10.0 ** math.floor(math.log10(raw)))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)


def _round(value: float) -> float:
    return round(value, 1)
