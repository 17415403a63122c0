"""A bar chart as SVG, without any library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

LABEL_PX, PLOT_PX, VALUE_PX, ROW_PX, BAR_PX = 190, 420, 150, 26, 16
TOP_PX, FOOT_PX, GAP_PX, MARGIN_PX = 76, 46, 10, 16
INK, FAINT, RULE = "#22272e", "#6b7480", "#d5dae0"
COLOURS = {"output": "#3b76b5", "narrowest": "#8fb7df", "inverse": "#d9822b"}


class Bar(NamedTuple):
    """One line of the chart."""

    group: str
    label: str
    kind: str
    """Chooses the colour: one of `COLOURS`."""
    value: float
    text: str
    """Stands at the bar's end."""


def draw(title: str, subtitle: str, bars: Sequence[Bar], mark: float, mark_text: str) -> str:
    """Horizontal bars from 0 in groups, and a dashed line at `mark`; the whole SVG document."""
    most = max([mark, *(bar.value for bar in bars)]) * 1.02
    groups = list(dict.fromkeys(bar.group for bar in bars))
    height = TOP_PX + len(bars) * ROW_PX + len(groups) * GAP_PX + FOOT_PX
    width = MARGIN_PX + LABEL_PX + PLOT_PX + VALUE_PX
    left = MARGIN_PX + LABEL_PX

    def x_of(value: float) -> float:
        return left + PLOT_PX * value / most

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escape(title)}" font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, '
        'sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        _text(MARGIN_PX, 28, title, size=17, weight=600),
        _text(MARGIN_PX, 50, subtitle, fill=FAINT),
    ]
    y = float(TOP_PX)
    for group in groups:
        for bar in (bar for bar in bars if bar.group == group):
            middle = y + ROW_PX / 2
            length = max(x_of(bar.value) - left, 1.5)
            parts.append(_text(left - 10, middle, f"{bar.group}, {bar.label}", anchor="end"))
            parts.append(
                f'<rect x="{left}" y="{middle - BAR_PX / 2:.1f}" width="{length:.1f}" height="{BAR_PX}" rx="2" '
                f'fill="{COLOURS[bar.kind]}"/>'
            )
            # A white edge keeps the text readable where the dashed line crosses it.
            parts.append(_text(left + length + 7, middle, bar.text, halo=True))
            y += ROW_PX
        y += GAP_PX
    bottom = y
    line = f'<line x1="{left}" x2="{left}" y1="{TOP_PX - 4}" y2="{bottom:.1f}" stroke="{RULE}"/>'
    dashed = (
        f'<line x1="{x_of(mark):.1f}" x2="{x_of(mark):.1f}" y1="{TOP_PX - 4}" y2="{bottom:.1f}" stroke="{INK}" '
        'stroke-dasharray="4 4"/>'
    )
    parts[4:4] = [line, dashed]
    parts.append(_text(min(x_of(mark), width - MARGIN_PX - 4), bottom + 18, mark_text, fill=FAINT, anchor="end"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _text(
    x: float,
    y: float,
    text: str,
    *,
    fill: str = INK,
    anchor: str = "start",
    size: int = 13,
    weight: int = 400,
    halo: bool = False,
) -> str:
    edge = ' paint-order="stroke" stroke="white" stroke-width="4" stroke-linejoin="round"' if halo else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{fill}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" '
        f'dominant-baseline="middle"{edge}>{escape(text)}</text>'
    )
