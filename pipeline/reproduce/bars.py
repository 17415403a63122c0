"""Bar chart of the claim, as an SVG document for light and dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

from matplotlib.axes import Axes

from pipeline.runs.svg import css_color, svg_elements

WIDTH, LEFT, RIGHT, TOP, FOOT = 776, 206, 150, 76, 30
ROW_PX, GAP_PX, BAR_PX = 26, 10, 16
COLORS = {"output": "--s0", "bottleneck": "--s1", "inverse": "--s2"}
THEMES = """
  svg { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; --paper: #fff; --ink: #22272e;
    --muted: #6b7480; --faint: #d5dae0; --s0: #3b76b5; --s1: #8fb7df; --s2: #d9822b; }
  @media (prefers-color-scheme: dark) { svg { --paper: #131416; --ink: #e9e9e6; --muted: #9a9da3; --faint: #34373b;
    --s0: #5b9bdf; --s1: #35597f; --s2: #ff9a56; } }
"""


class Bar(NamedTuple):
    """One bar of the chart."""

    group: str
    label: str
    kind: str
    """Key of its colour in `COLORS`."""
    value: float
    text: str
    """Text at the bar's end."""


def draw_bars(title: str, subtitle: str, bars: Sequence[Bar], mark: float, mark_text: str) -> str:
    """SVG document: horizontal bars from 0, with a gap between groups, and a dashed line at `mark`."""
    groups = list(dict.fromkeys(bar.group for bar in bars))
    middles = [ROW_PX * (i + 0.5) + GAP_PX * groups.index(bar.group) for i, bar in enumerate(bars)]
    length = ROW_PX * len(bars) + GAP_PX * len(groups)
    most = max([mark, *(bar.value for bar in bars)]) * 1.02
    widths, ink = [max(bar.value, most / 300) for bar in bars], css_color("--ink")

    def draw_axes(axes: Axes) -> None:
        axes.set(xlim=(0, most), ylim=(length, 0), xticks=[])  # a unit of y is a px
        axes.set_yticks(middles, [f"{bar.group}, {bar.label}" for bar in bars], fontsize=13, color=ink)
        axes.axvline(0, color=css_color("--faint"))
        axes.axvline(mark, color=ink, linewidth=1, linestyle=(0, (4, 4)))
        drawn = axes.barh(middles, widths, BAR_PX, color=[css_color(COLORS[bar.kind]) for bar in bars])
        edge = {"facecolor": css_color("--paper"), "edgecolor": "none", "pad": 1.5}  # hides the dashed line
        axes.bar_label(drawn, [bar.text for bar in bars], padding=7, fontsize=13, color=ink, bbox=edge)
        axes.text(mark, length + 8, mark_text, ha="right", va="top", fontsize=13, color=css_color("--muted"))

    height = TOP + length + FOOT
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img">
<title>{escape(title)}</title>
<style>{THEMES}</style>
<rect width="{WIDTH}" height="{height}" fill="var(--paper)"/>
<text x="16" y="33" font-size="17" font-weight="600" fill="var(--ink)">{escape(title)}</text>
<text x="16" y="54" fill="var(--muted)">{escape(subtitle)}</text>
{svg_elements((WIDTH, height), (LEFT, RIGHT, TOP, FOOT), draw_axes)}
</svg>
"""
