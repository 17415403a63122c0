"""Curves of the page, drawn by matplotlib in the page's own colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from pipeline.runs.svg import css_color, svg_elements

WIDTH, HEIGHT = 360, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 38
"""Size of a plot and margins of its axes, px."""
MAX_POINTS = 300
"""Largest number of points of a line; longer lines are thinned."""
LARGEST = 1e300
"""Largest magnitude that is drawn, far enough from a float's end to compute with."""
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A curve; its points are sorted by x, and values that are not finite leave a gap."""

    name: str
    points: Sequence[Point]
    color: int
    """Index of the run's colour; -1: grey."""
    dashed: bool = False
    legend: str = ""
    """Default: the name with the last value."""


@dataclass(frozen=True)
class Plot:
    """A drawn plot, and its values for the pointer and for screen readers."""

    title: str
    elements: Markup
    """SVG elements of a WIDTH x HEIGHT drawing."""
    readings: list[dict[str, Any]]
    """Name, color and legend of each line, and its points: x in px, x and y as text."""


def draw_plot(
    title: str, lines: Sequence[Line], *, log: bool = False, x_label: str = "images seen", from_zero: bool = True
) -> Plot | None:
    """Plot of the lines; None when there is nothing to draw.

    log: logarithmic y axis, if the values span it; values that are not above 0 leave a gap, as do those beyond
    `LARGEST`. from_zero: x begins at 0, and the last point of each line is marked.
    """
    drawn = [replace(line, points=points) for line in lines if (points := drawable(line.points, log))]
    if not drawn:
        return None
    xs = [x for line in drawn for x, _ in line.points]
    ys = [y for line in drawn for _, y in line.points if not math.isnan(y)]
    x_low, x_high = 0 if from_zero else min(xs), max(xs)
    readings: list[dict[str, Any]] = []

    def draw_axes(axes: Axes) -> None:
        set_y_axis(axes, min(ys), max(ys), log)
        axes.set_xlim(x_low, x_high if x_high > x_low else x_low + 1)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(lambda x, _: si_text(x))
        axes.set_xlabel(x_label, color=css_color("--muted"), labelpad=4)
        axes.grid(axis="y", color=css_color("--faint"), linewidth=1)
        for line in drawn:
            color = css_color("--muted" if line.color < 0 else f"--s{line.color % 8}")
            style: dict[str, Any] = {"linewidth": 1.5, "linestyle": (0, (3, 3))} if line.dashed else {"linewidth": 2}
            axes.plot(*zip(*line.points, strict=True), color=color, clip_on=False, **style)
            kept = [(x, y) for x, y in line.points if not math.isnan(y)]
            if from_zero:  # a dot: the round ends of a line without length
                axes.plot(*zip(kept[-1], kept[-1], strict=True), color=color, linewidth=5, clip_on=False)
            x_px = axes.transData.transform([(x, kept[0][1]) for x, _ in kept])[:, 0].round(1).tolist()
            points = [[px, si_text(x), number_text(y)] for px, (x, y) in zip(x_px, kept, strict=True)]
            legend = line.legend or f"{line.name} {points[-1][2]}"
            readings.append({"name": line.name, "color": line.color, "legend": legend, "points": points})

    elements = svg_elements((WIDTH, HEIGHT), (LEFT, RIGHT, TOP, BOTTOM), draw_axes)
    return Plot(title, Markup(elements), readings)


def drawable(points: Sequence[Point], log: bool) -> list[Point]:
    """At most `MAX_POINTS` of the points, with the last one; NaN for values that cannot be drawn, [] if none can."""
    every = math.ceil(len(points) / MAX_POINTS) or 1
    low = 1 / LARGEST if log else -LARGEST
    found = [(x, y if low <= y <= LARGEST else math.nan) for x, y in points[::-every][::-1]]
    return [] if all(math.isnan(y) for _, y in found) else found


def set_y_axis(axes: Axes, low: float, high: float, log: bool) -> None:
    """Limits and ticks at round numbers around the values: 1, 2, 5 or, over several decades, powers of ten."""
    if log and high > 2 * low:
        rounded = [m * 10.0**d for d in range(-301, 301) for m in (1, 2, 5)]
        low, high = max(v for v in rounded if v <= low), min(v for v in rounded if v >= high)
        decades = math.log10(high) - math.log10(low) > 1.5
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1,) if decades else (1, 2, 5), numticks=6))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_ylim(low, high)
        axes.yaxis.set_major_formatter(lambda y, _: number_text(y))
        return
    size = max(abs(low), abs(high))
    if high - low <= max((0.02 if log else 1e-4) * size, 1 / LARGEST):  # a constant runs through the middle
        margin = size / 20 if size > 1 / LARGEST else 0.5
        low, high = low - margin, high + margin
    ticks = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high)
    digits = math.ceil(math.log10(max(size, ticks[-1] - ticks[0]) / (ticks[1] - ticks[0]))) + 1
    axes.set_yticks(ticks, [number_text(y, max(4, digits), max(2, digits)) for y in ticks])
    axes.set_ylim(ticks[0], ticks[-1])


def si_text(value: float) -> str:
    """20000 -> 20k."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def number_text(value: float, digits: int = 4, scientific_digits: int = 2) -> str:
    """Number with its significant digits: 0.02512; large and small ones as 1.2·10⁻⁵."""
    if not math.isfinite(value):
        return "not finite"
    if value == 0 or 1e-3 < abs(value) < 1e5:
        return f"{value:.{digits}g}"
    mantissa, _, exponent = f"{value:.{scientific_digits - 1}e}".partition("e")
    power = f"10{str(int(exponent)).translate(SUPERSCRIPTS)}"
    return power if float(mantissa) == 1 else f"{float(mantissa):g}·{power}"
