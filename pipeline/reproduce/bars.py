"""Bar chart of the claim, as an SVG document for light and dark pages."""

from __future__ import annotations

from typing import Any
from xml.sax.saxutils import escape

from matplotlib.axes import Axes

from pipeline.runs.svg import css_color, svg_elements
from pipeline.runs.texts import model_title

WIDTH, LEFT, RIGHT, TOP, FOOT = 776, 206, 150, 76, 30
ROW_PX, GAP_PX, BAR_PX = 26, 10, 16
THEMES = """
  svg { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; --paper: #fff; --ink: #22272e;
    --muted: #6b7480; --faint: #d5dae0; --s0: #3b76b5; --s1: #8fb7df; --s2: #d9822b; }
  @media (prefers-color-scheme: dark) { svg { --paper: #131416; --ink: #e9e9e6; --muted: #9a9da3; --faint: #34373b;
    --s0: #5b9bdf; --s1: #35597f; --s2: #ff9a56; } }
"""


BARS = {
    "output": ("from the output", "--s0"),
    "bottleneck": ("from the bottleneck", "--s1"),
    "exact inverse": ("exact inverse", "--s2"),
    "inverse of 8 bits": ("inverse, 8 bits", "--s2"),
}
"""Layer: label and colour of its bar."""


def noise_chart(claim: dict[str, Any]) -> str:
    """SVG document of a claim.json: the share of the noise's energy that was not recovered, for each network."""
    title = "Noise that was not recovered"
    subtitle = f"share of its energy; {claim['dataset']}, {claim['task_label']}, {claim['budget']} of training"
    rows, ink = claim["rows"], css_color("--ink")
    shares = [row["noise_lost_share"] for row in rows]
    networks = list(dict.fromkeys(row["model"] for row in rows))
    middles = [ROW_PX * (i + 0.5) + GAP_PX * networks.index(row["model"]) for i, row in enumerate(rows)]
    length = ROW_PX * len(rows) + GAP_PX * len(networks)
    most = max([1.0, *shares]) * 1.02

    def draw_axes(axes: Axes) -> None:
        axes.set(xlim=(0, most), ylim=(length, 0), xticks=[])  # a unit of y is a px
        labels = [f"{model_title(row['model'])}, {BARS[row['layer']][0]}" for row in rows]
        axes.set_yticks(middles, labels, fontsize=13, color=ink)
        axes.axvline(0, color=css_color("--faint"))
        axes.axvline(1, color=ink, linewidth=1, linestyle=(0, (4, 4)))
        widths, colors = [max(share, most / 300) for share in shares], [BARS[row["layer"]][1] for row in rows]
        drawn = axes.barh(middles, widths, BAR_PX, color=list(map(css_color, colors)))
        edge = {"facecolor": css_color("--paper"), "edgecolor": "none", "pad": 1.5}  # hides the dashed line
        axes.bar_label(drawn, list(map(percent, shares)), padding=7, fontsize=13, color=ink, bbox=edge)
        caption = "100 %: only the clean image was recovered"
        axes.text(1, length + 8, caption, ha="right", va="top", fontsize=13, color=css_color("--muted"))

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


def percent(share: float) -> str:
    """Share in percent; below 0.1 % with its power of ten."""
    return f"{share:.1%}" if share >= 1e-3 else f"{100 * share:.0e}".replace("e-0", "e-") + "%" if share else "0%"
