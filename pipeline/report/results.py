"""Evaluations on the same images, beside each other: figures, pictures, and what the figures belong to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.report.gallery import Gallery, Member, make_gallery
from pipeline.report.load import RunFacts, last_part, task_title
from pipeline.report.plots import Line, Plot, draw
from pipeline.runs.evaluations import best_median_worst, is_number

BINS = 24
COLUMNS = (
    ("psnr_db_restored", "PSNR (dB)", "{:.2f}", True),
    ("gain_db", "Gain (dB)", "{:+.2f}", False),
    ("psnr_db_hole_restored", "PSNR in the hole (dB)", "{:.2f}", True),
    ("ssim_restored", "SSIM", "{:.4f}", True),
    ("ssim_released_restored", "SSIM (released)", "{:.4f}", True),
    ("parameters", "Parameters", "{:,.0f}", False),
    ("trained_images", "Images trained on", "{:,.0f}", False),
    ("images_per_sec", "Images/s", "{:,.1f}", False),
)
"""Name of the figure, heading, format, whether the largest one is marked."""
PROTOCOL = {
    "images": "Images",
    "data": "Data set",
    "dataset_sha256": "SHA-256 of dataset.json",
    "split": "Split",
    "image_size": "Side (px)",
    "bits": "Bits",
    "sigma_255": "Noise, σ · 255",
    "noise_seed": "Seed of the noise",
    "protocol": "Protocol",
    "psnr": "PSNR",
    "ssim": "SSIM",
    "ssim_released": "SSIM (released)",
    "precision": "Precision",
}


@dataclass(frozen=True)
class Cell:
    heading: str
    text: str
    best: bool = False
    before: str = ""
    """The same of the degraded images, if it is a measure of images."""


@dataclass(frozen=True)
class Row:
    label: str
    color: int | None
    cells: list[Cell]


@dataclass(frozen=True)
class Section:
    """Everything on one set of images."""

    anchor: str
    title: str
    members: list[Member]
    rows: list[Row]
    gallery: Gallery
    histogram: Plot | None
    protocol: list[tuple[str, str]]


def sections(runs: Sequence[RunFacts]) -> list[Section]:
    """One for each set of images that some run was evaluated on, in the order of the runs."""
    groups: dict[tuple[Any, ...], list[Member]] = {}
    for run in runs:
        for evaluation in run.evaluations:
            groups.setdefault(evaluation.group, []).append((run, evaluation))
    return [make_section(f"results-{number}", members) for number, members in enumerate(groups.values(), 1)]


def make_section(anchor: str, members: list[Member]) -> Section:
    metrics = members[0][1].metrics
    protocol = metrics.get("protocol", "standard")
    title = f"{last_part(metrics['data'])}, {task_title(metrics['label'])}"
    notes = [] if metrics["split"] == "test" else [f"{metrics['split']} split"]
    notes += [] if protocol == "standard" else [f"{protocol} protocol"]
    return Section(
        anchor,
        title + (f" ({', '.join(notes)})" if notes else ""),
        members,
        rows_of(members),
        make_gallery(members, best_median_worst(members[0][1].images)),
        histogram(members),
        protocol_of([evaluation.metrics for _, evaluation in members]),
    )


def rows_of(members: list[Member]) -> list[Row]:
    """The degraded images, then each system; columns that nobody has are left out."""
    values = [
        {**e.metrics, "gain_db": e.metrics["psnr_db_restored"] - e.metrics["psnr_db_degraded"]} for _, e in members
    ]
    columns = [column for column in COLUMNS if any(is_number(one.get(column[0])) for one in values)]
    degraded = [
        Cell(heading, text(values[0].get(name.replace("restored", "degraded")) if "restored" in name else None, form))
        for name, heading, form, _ in columns
    ]
    rows = [Row("degraded", None, degraded)]
    for (run, _), own in zip(members, values, strict=True):
        cells = []
        for (name, heading, form, marked), before in zip(columns, degraded, strict=True):
            others = [one[name] for one in values if is_number(one.get(name))]
            is_best = marked and len(others) > 1 and is_number(own.get(name)) and own[name] >= max(others)
            cells.append(Cell(heading, text(own.get(name), form), is_best, before.text))
        rows.append(Row(run.label, run.color, cells))
    return rows


def text(value: Any, form: str) -> str:
    """Empty for what is not known."""
    return form.format(value) if is_number(value) else ""


def histogram(members: list[Member]) -> Plot | None:
    """Share of the images over their restored PSNR; None for few images."""
    values = [np.array([row["psnr_db_restored"] for row in e.images]) for _, e in members]
    values = [of_one[np.isfinite(of_one)] for of_one in values]
    if min(map(len, values)) < 2 * BINS:
        return None
    edges = np.histogram_bin_edges(np.concatenate(values), BINS)
    middles = ((edges[1:] + edges[:-1]) / 2).tolist()
    lines = []
    for (run, _), of_one in zip(members, values, strict=True):
        percent = 100 * np.histogram(of_one, edges)[0] / len(of_one)
        points = list(zip(middles, percent.tolist(), strict=True))
        lines.append(Line(run.label, points, run.color, legend=f"{run.label}, median {np.median(of_one):.2f}"))
    title = "Images (%) at each PSNR"
    return draw(title, lines, x_label="PSNR of the restored image (dB)", goes_on=False)


def protocol_of(metrics: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """What the figures belong to; several values where the systems differ."""
    found = []
    for name, title in PROTOCOL.items():
        values = dict.fromkeys(str(one[name]) for one in metrics if one.get(name) is not None)
        if values:
            found.append((title, " / ".join(values)))
    return found
