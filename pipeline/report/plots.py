"""Curves as plain geometry: ticks and SVG paths, which the template draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

WIDTH, HEIGHT = 360, 230
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 10, 38
POINTS = 300
"""Of a line at most."""
LARGEST = 1e300
"""Size of a number that is drawn, far enough from a float's end to compute with."""
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """Points from left to right; what is not finite leaves a gap."""

    name: str
    points: Sequence[Point]
    color: int
    dashed: bool = False
    legend: str = ""
    """Default: the name with the last value."""


@dataclass(frozen=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True)
class Path:
    d: str
    color: int
    dashed: bool
    end: Point | None


@dataclass(frozen=True)
class Plot:
    """What the template needs; px of a WIDTH x HEIGHT drawing."""

    title: str
    x_label: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    paths: list[Path]
    summary: str
    """The same in words, for who cannot see it."""
    readings: list[dict[str, Any]]
    """name, color, legend, and of each point x and y in px and both values as text: what a pointer over it reads."""


@dataclass(frozen=True)
class Axis:
    """Values to px."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    def __call__(self, value: float) -> float:
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 1)


def draw(
    title: str,
    lines: Sequence[Line],
    *,
    log: bool = False,
    x_label: str = "images seen",
    goes_on: bool = True,
) -> Plot | None:
    """None when there is nothing to draw. `log`: the vertical axis; what is not above 0 is left out, as is what is
    beyond `LARGEST`. `goes_on`: from 0 to a last value, which is marked."""

    def is_shown(y: float) -> bool:
        return abs(y) <= LARGEST and (y >= 1 / LARGEST or not log)

    shown = [replace(line, points=thin(line.points)) for line in lines]
    shown = [line for line in shown if any(is_shown(y) for _, y in line.points)]
    if not shown:
        return None
    ys = [y for line in shown for _, y in line.points if is_shown(y)]
    xs = [x for line in shown for x, _ in line.points]
    y_ticks, y_axis = (log_axis if log else linear_axis)(min(ys), max(ys), HEIGHT - BOTTOM, TOP)
    x_low = 0 if goes_on else min(xs)
    x_axis = Axis(x_low, max(*xs, x_low + 1e-6), LEFT, WIDTH - RIGHT, log=False)
    x_ticks = [Tick(x_axis(x), si(x)) for x in steps(x_axis.low, x_axis.high, 5)]
    paths: list[Path] = []
    readings: list[dict[str, Any]] = []
    for line in shown:
        places = [(x_axis(x), y_axis(y), x, y) if is_shown(y) else None for x, y in line.points]
        kept = [place for place in places if place]
        d = path([(p[0], p[1]) if p else None for p in places])
        paths.append(Path(d, line.color, line.dashed, kept[-1][:2] if goes_on else None))
        points = [[x, y, si(at), number(value)] for x, y, at, value in kept]
        legend = line.legend or f"{line.name} {points[-1][3]}"
        readings.append({"name": line.name, "color": line.color, "legend": legend, "points": points})
    summary = f"{title}: {', '.join(reading['legend'] for reading in readings)}."
    return Plot(title, x_label, x_ticks, y_ticks, paths, summary, readings)


def thin(points: Sequence[Point]) -> list[Point]:
    """Every k-th, so that few enough are left; the last one is kept."""
    every = math.ceil(len(points) / POINTS) or 1
    return list(points[::-1][::every][::-1])


def path(places: Sequence[Point | None]) -> str:
    """SVG path data; None lifts the pen."""
    parts, pen = [], "M"
    for place in places:
        if place is not None:
            parts.append(f"{pen}{place[0]:g} {place[1]:g}")
        pen = "M" if place is None else "L"
    return "".join(parts)


def linear_axis(low: float, high: float, start: float, end: float) -> tuple[list[Tick], Axis]:
    """From a tick below the lowest value to one above the highest."""
    size = max(abs(low), abs(high))
    if high - low <= max(1e-4 * size, 1 / LARGEST):  # ticks have four digits; what hardly changes runs in the middle
        margin = size / 20 if size > 1 / LARGEST else 0.5
        low, high = low - margin, high + margin
    step = nice_step(low, high, 5)
    axis = Axis(math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, start, end, log=False)
    return [Tick(axis(value), number(value)) for value in steps(axis.low, axis.high, 5)], axis


def log_axis(low: float, high: float, start: float, end: float) -> tuple[list[Tick], Axis]:
    """Whole decades where the values span more than one and a half, otherwise 1, 2, 5."""
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    wide = math.log10(high / low) > 1.5
    values = [m * 10.0**d for d in decades for m in ((1,) if wide else (1, 2, 5))]
    margin = 1 + 1e-9 if high > 1.02 * low else 0.98  # what hardly changes runs through the middle
    first = max(v for v in values if v <= low * margin)
    last = min(v for v in values if v >= high / margin and v > first)
    axis = Axis(first, last, start, end, log=True)
    kept = [v for v in values if first <= v <= last]
    every = math.ceil(len(kept) / 6)
    return [Tick(axis(v), power(v) if wide else number(v)) for v in kept[::every]], axis


def nice_step(low: float, high: float, count: int) -> float:
    """1, 2 or 5 times a power of ten, for about `count` steps."""
    raw = (high - low) / count
    power_of_ten = 10.0 ** math.floor(math.log10(raw))
    return power_of_ten * next(m for m in (1, 2, 5, 10) if m * power_of_ten >= raw * 0.999)


def steps(low: float, high: float, count: int) -> list[float]:
    """Multiples of a nice step from low to high."""
    step = nice_step(low, high, count)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def si(value: float) -> str:
    """20000 -> 20k."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def power(value: float) -> str:
    """A power of ten: 0.001 -> 10⁻³."""
    return "10" + str(round(math.log10(value))).translate(SUPERSCRIPTS)


def number(value: float) -> str:
    """Four digits, large and small ones as 1.2·10⁻⁵."""
    if not math.isfinite(value):
        return "not finite"
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.4g}"
    digits, _, exponent = f"{value:.1e}".partition("e")
    text = f"10{str(int(exponent)).translate(SUPERSCRIPTS)}"
    return text if float(digits) == 1 else f"{float(digits):g}·{text}"
