"""Plots as SVG: inside their frame for any values, equal bytes, text as text, the page's colours."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from xml.etree import ElementTree

import matplotlib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.report.svg_plot import HEIGHT, MAX_POINTS, WIDTH, Line, Plot, draw_plot, number_text

EXTREMES = [math.nan, math.inf, -math.inf, 0.0, 5e-324, 1e-308, 1e308, -1e308, 1e300]
VALUES = st.floats(-1e9, 1e9) | st.sampled_from(EXTREMES) | st.floats()
POINTS = st.lists(st.tuples(st.integers(0, 10**9), VALUES), max_size=400)


def elements_of(plot: Plot) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(f"<svg>{plot.elements}</svg>"))


def tick_labels(plot: Plot, anchor: str) -> list[tuple[str, float]]:
    """Text and height of the labels of an axis: `end` of y, `middle` of x and its title."""
    texts = [e for e in elements_of(plot) if e.tag == "text" and f"text-anchor: {anchor}" in e.get("style", "")]
    return [(e.text or "", float(e.get("y", "nan"))) for e in texts]


@settings(max_examples=50)
@given(POINTS, st.booleans(), st.booleans())
def test_plots_stay_in_their_frame(points: list[tuple[float, float]], log: bool, from_zero: bool) -> None:
    points = sorted(points, key=lambda point: point[0])
    plot = draw_plot("x", [Line("a", points, 0)], log=log, from_zero=from_zero)
    if plot is None:
        return
    for element in elements_of(plot):
        x, y = element.get("x"), element.get("y")
        numbers = [float(n) for n in re.findall(r"-?[\d.]+", element.get("d") or f"{x} {y}")]
        assert numbers and len(numbers) % 2 == 0
        assert all(0 <= n <= WIDTH for n in numbers[::2]) and all(0 <= n <= HEIGHT for n in numbers[1::2])
    labels, heights = zip(*tick_labels(plot, "end"), strict=True)
    assert 2 <= len(labels) <= 12 and len({*labels}) == len(labels), "every tick has a label of its own"
    assert list(heights) == sorted(heights, reverse=True)
    assert all(0 <= x <= WIDTH for x, _, _ in plot.readings[0]["points"])


@settings(max_examples=20)
@given(st.sampled_from([0.0, 1e-300, 1e-12, 0.5, 1.0, 24.92, 1e6, 1e300, -3.0]), st.booleans())
def test_a_constant_runs_through_the_middle(value: float, log: bool) -> None:
    plot = draw_plot("x", [Line("a", [(0, value), (100, value)], 0)], log=log)
    if plot is None:
        assert log and value <= 0
        return
    heights = [height for _, height in tick_labels(plot, "end")]
    curve = next(e for e in elements_of(plot) if "var(--s0)" in e.get("style", ""))
    at = float(re.findall(r"[\d.]+", curve.get("d", ""))[1])
    assert min(heights) + 20 < at < max(heights) - 20


def test_curves_keep_their_last_point_and_leave_gaps() -> None:
    plot = draw_plot("x", [Line("a", [(x, 1.0 + x % 7) for x in range(5000)], 0)])
    assert plot and len(plot.readings[0]["points"]) <= MAX_POINTS
    assert plot.readings[0]["points"][-1][1:] == ["4.999k", number_text(1.0 + 4999 % 7)]
    plot = draw_plot("x", [Line("a", [(0, 1.0), (1, 2.0), (2, math.nan), (3, 2.0), (4, 1.0)], 0)])
    assert plot
    curve = next(e for e in elements_of(plot) if "var(--s0)" in e.get("style", ""))
    assert curve.get("d", "").count("M") == 2
    assert draw_plot("x", [Line("a", [(0, math.nan)], 0)]) is None
    assert draw_plot("x", [Line("a", [(0, -1.0)], 0)], log=True) is None


def test_a_plot_has_the_pages_colours_and_fonts() -> None:
    lines = [Line("a", [(0, 1.0), (9, 2.0)], 9), Line("$b$", [(0, 1.0), (9, 2.0)], -1, dashed=True)]
    plot = draw_plot("x", lines, x_label="<images> $seen$")
    assert plot
    assert {*re.findall(r"var\((.*?)\)", plot.elements)} == {"--s1", "--muted", "--faint"}
    assert not re.search(r"#[0-9a-f]{6}|font-family|id=|<g|<defs", plot.elements)
    assert tick_labels(plot, "middle")[-1][0] == "<images> $seen$"


@pytest.mark.integration
def test_equal_curves_give_equal_bytes_on_every_machine() -> None:
    """In another process, without a display, with other settings of matplotlib and another seed of the hashes."""
    points = [(x, 0.5 / (x + 1)) for x in range(100)]
    plot = draw_plot("x", [Line("a", points, 0)], log=True)
    code = (
        "import sys, matplotlib; matplotlib.rcParams.update({'svg.fonttype': 'path', 'font.size': 30}); "
        "from pipeline.report.svg_plot import *; "
        "plot = draw_plot('x', [Line('a', [(x, 0.5 / (x + 1)) for x in range(100)], 0)], log=True); "
        "sys.stdout.write(plot.elements)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "DISPLAY"} | {"PYTHONHASHSEED": "7"}
    other = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert plot and other.stdout == plot.elements
    assert matplotlib.rcParams["svg.fonttype"] == matplotlib.rcParamsDefault["svg.fonttype"], (
        "settings stay as they were"
    )
