"""Plots as SVG elements, drawn by matplotlib: equal bytes for equal data, text as text, colours as CSS variables."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

VARIABLES = ("--paper", "--ink", "--muted", "--faint", *(f"--s{i}" for i in range(8)))
"""CSS variables of colours, which the document around the elements defines for its light and dark themes."""
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "irae",
    "text.parse_math": False,
    "font.size": 11.5,
    "lines.solid_capstyle": "round",
    "axes.axisbelow": True,
}


def css_color(variable: str) -> str:
    """Colour for matplotlib that becomes `var(VARIABLE)` in the SVG."""
    return f"#0000{1 + VARIABLES.index(variable):02x}"  # black is SVG's default and would be left out


def svg_elements(size_px: tuple[int, int], margins_px: tuple[int, int, int, int], draw: Callable[[Axes], None]) -> str:
    """SVG elements of the drawing, without the `<svg>` around them; coordinates in px.

    margins_px: left, right, top, bottom of the axes. `draw` puts marks, ticks and labels on the empty axes.
    """
    (width, height), (left, right, top, bottom) = size_px, margins_px
    sink = io.StringIO()
    with matplotlib.rc_context(), np.errstate(over="ignore"):  # ticks beyond a float's end are not drawn
        matplotlib.rcdefaults()  # a user's matplotlibrc changes nothing
        matplotlib.rcParams.update(STYLE)
        figure = Figure((width / 72, height / 72), dpi=72, frameon=False)
        extent = (left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height)
        axes = figure.add_axes(extent, frameon=False)
        axes.tick_params(length=0, labelcolor=css_color("--muted"), pad=7)
        draw(axes)
        figure.savefig(sink, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return _compact(sink.getvalue())


def _compact(svg: str) -> str:
    """Paths and texts alone, with the document's font, CSS variables as colours, and coordinates of 0.1 px."""

    def rounded(match: re.Match[str]) -> str:
        numbers = re.sub(r"-?\d+\.\d+", lambda m: f"{float(m[0]):.1f}".removesuffix(".0"), match[2])
        return f' {match[1]}="' + re.sub(r"\s*([A-Za-z])\s*", r"\1", numbers).strip() + '"'

    svg = re.sub(r"(?s)^.*?<svg[^>]*>|<defs>.*?</defs>|</?g[^>]*>|</svg>", "", svg)
    svg = re.sub(r' (id|clip-path|transform)="[^"]*"|font-family: [^;"]*;? ?', "", svg)
    svg = re.sub(r' (d|x|y)="([^"]*)"', rounded, svg)
    svg = re.sub(r"#0000([0-9a-f]{2})", lambda m: f"var({VARIABLES[int(m[1], 16) - 1]})", svg)
    return re.sub(r"\n\s*", "\n", svg).strip()
