"""Evaluations on the same images, side by side: figures, images and protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.report.gallery import Gallery, Member, make_gallery
from pipeline.report.load import RunFacts
from pipeline.report.svg_plot import Line, Plot, draw_plot
from pipeline.runs.texts import formatted, is_number, task_title, url_name

BINS = 24
COLUMNS = (
    ("psnr_db_restored", "PSNR (dB)", ".2f", True),
    ("gain_db", "Gain (dB)", "+.2f", False),
    ("psnr_db_hole_restored", "PSNR in the hole (dB)", ".2f", True),
    ("ssim_restored", "SSIM", ".4f", True),
    ("ssim_released_restored", "SSIM (released)", ".4f", True),
    ("parameters", "Parameters", ",.0f", False),
    ("trained_images", "Images trained on", ",.0f", False),
    ("images_per_sec", "Images/s", ",.1f", False),
)
"""Value of metrics.json, heading, format, whether the largest value is marked."""


@dataclass(frozen=True)
class Figure:
    """One value of a row."""

    heading: str
    text: str
    best: bool = False
    degraded: str = ""
    """The same of the degraded images; empty if it is no measure of images."""


@dataclass(frozen=True)
class ModelRow:
    """Figures of a run, or of the degraded images."""

    label: str
    color: int | None
    figures: list[Figure]


@dataclass(frozen=True)
class Section:
    """Everything on one set of images."""

    anchor: str
    title: str
    members: list[Member]
    rows: list[ModelRow]
    gallery: Gallery
    histogram: Plot | None


def sections(runs: Sequence[RunFacts]) -> list[Section]:
    """One for each set of images that some run was evaluated on, in the order of the runs."""
    groups: dict[tuple[Any, ...], list[Member]] = {}
    for run in runs:
        for evaluation in run.evaluations:
            groups.setdefault(evaluation.group, []).append((run, evaluation))
    found = []
    for number, members in enumerate(groups.values(), 1):
        first = members[0][1].metrics
        title = f"{url_name(first['data'])}, {task_title(first['label'])}"
        notes = [] if first["split"] == "test" else [f"{first['split']} split"]
        notes += [f"{name} protocol" for name in [first.get("protocol", "standard")] if name != "standard"]
        found.append(
            Section(
                f"results-{number}",
                f"{title} ({', '.join(notes)})" if notes else title,
                members,
                rows_of(members),
                make_gallery(members),
                histogram(members),
            )
        )
    return found


def rows_of(members: list[Member]) -> list[ModelRow]:
    """The degraded images, then each run; without columns that no run has."""
    values = [
        {**e.metrics, "gain_db": e.metrics["psnr_db_restored"] - e.metrics["psnr_db_degraded"]} for _, e in members
    ]
    rows = [ModelRow("degraded", None, []), *(ModelRow(run.label, run.color, []) for run, _ in members)]
    for name, heading, pattern, is_marked in COLUMNS:
        known = [one[name] for one in values if is_number(one.get(name))]
        if not known:
            continue
        measure = name.replace("restored", "degraded") if "restored" in name else ""
        degraded = formatted(values[0].get(measure), pattern)
        rows[0].figures.append(Figure(heading, degraded))
        for row, own in zip(rows[1:], values, strict=True):
            is_best = is_marked and len(known) > 1 and own.get(name) == max(known)
            row.figures.append(Figure(heading, formatted(own.get(name), pattern), is_best, degraded))
    return rows


def histogram(members: list[Member]) -> Plot | None:
    """Share of the images over their restored PSNR; None for few images."""
    psnr_db = [np.array([row["psnr_db_restored"] for row in e.per_image]) for _, e in members]
    psnr_db = [values[np.isfinite(values)] for values in psnr_db]
    if min(map(len, psnr_db)) < 2 * BINS:
        return None
    edges = np.histogram_bin_edges(np.concatenate(psnr_db), BINS)
    middles = ((edges[1:] + edges[:-1]) / 2).tolist()
    lines = []
    for (run, _), values in zip(members, psnr_db, strict=True):
        percent = 100 * np.histogram(values, edges)[0] / len(values)
        points = list(zip(middles, percent.tolist(), strict=True))
        lines.append(Line(run.label, points, run.color, legend=f"{run.label}, median {np.median(values):.2f}"))
    return draw_plot("Images (%) at each PSNR", lines, x_label="PSNR of the restored image (dB)", from_zero=False)
