"""Training curves and how exactly the networks invert, over the images seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.report.load import RunFacts, last_part, task_title
from pipeline.report.plots import Line, Plot, draw, number
from pipeline.runs.evaluations import is_number

ROUND_TRIP, CONDITION, SCALE = "round_trip_max_error", "condition_number_max", "coupling_scale_min"


@dataclass(frozen=True)
class Training:
    """Runs on the same data for the same task."""

    title: str
    runs: list[RunFacts]
    rows: list[tuple[RunFacts, list[tuple[str, str]]]]
    """Headings and texts of each run's end."""
    plots: list[Plot]


@dataclass(frozen=True)
class Inverses:
    """The runs whose systems invert, and those whose do not."""

    rows: list[tuple[RunFacts, list[tuple[str, str]]]]
    plots: list[Plot]
    without: list[RunFacts]


def trainings(runs: Sequence[RunFacts]) -> list[Training]:
    groups: dict[tuple[str, str], list[RunFacts]] = {}
    for run in runs:
        groups.setdefault((str(run.config.get("data")), run.task), []).append(run)
    return [
        Training(
            f"{last_part(data)}, {task_title(label)}", members, [(run, ending(run)) for run in members], plots(members)
        )
        for (data, label), members in groups.items()
    ]


def plots(runs: list[RunFacts]) -> list[Plot]:
    """Those that there are figures for."""
    validation = lines(runs, "val_psnr_db")
    if degraded := lines(runs, "val_psnr_db_degraded"):
        longest = max(degraded, key=lambda line: line.points[-1][0])
        validation.append(Line("degraded", longest.points, -1, dashed=True))
    drawn = (
        draw("Validation PSNR (dB)", validation),
        draw("Training loss, L1", lines(runs, "loss"), log=True),
        draw("Learning rate", lines(runs, "lr"), log=True),
    )
    return [plot for plot in drawn if plot]


def lines(runs: Sequence[RunFacts], name: str) -> list[Line]:
    """A column of each run's metrics.parquet; runs without it have no line."""
    found = []
    for run in runs:
        points = [(row["images_seen"], row[name]) for row in run.rows if is_number(row.get(name))]
        if points:
            found.append(Line(run.label, points, run.color))
    return found


def ending(run: RunFacts) -> list[tuple[str, str]]:
    """Where a run's training has come to."""
    last = run.last
    best = run.best.get("val_psnr_db")
    return [
        ("Images seen", texts(last.get("images_seen"), "{:,.0f}")),
        ("Epochs", texts(last.get("epoch"), "{:.1f}")),
        ("Time", duration(last.get("train_s"))),
        ("Images/s", texts(last.get("images_per_sec"), "{:,.0f}")),
        ("Loss", texts(last.get("loss"), "{:.4f}")),
        ("Best validation PSNR (dB)", texts(best, "{:.2f}")),
    ]


def texts(value: Any, form: str) -> str:
    return form.format(value) if is_number(value) else "–"


def duration(seconds: Any) -> str:
    """3725 -> 1 h 2 min."""
    if not is_number(seconds):
        return "–"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def inverses(runs: Sequence[RunFacts]) -> Inverses:
    """From the validations, and from the evaluations the error over all images."""
    with_inverse = [run for run in runs if run.config.get("system", "irae") == "irae"]
    drawn = (
        draw("Round-trip error, largest", lines(with_inverse, ROUND_TRIP), log=True),
        draw("Condition number, largest", lines(with_inverse, CONDITION), log=True),
        draw("Coupling factor, smallest", lines(with_inverse, SCALE), log=True),
    )
    rows = []
    for run in with_inverse:
        last = run.last
        evaluated = [e.metrics[ROUND_TRIP] for e in run.evaluations if is_number(e.metrics.get(ROUND_TRIP))]
        cells = [
            ("Round trip, evaluated images", number(max(evaluated)) if evaluated else "–"),
            ("Round trip, last validation", value(last.get(ROUND_TRIP))),
            ("Condition number, largest", value(last.get(CONDITION))),
            ("Coupling factor, smallest", value(last.get(SCALE))),
        ]
        rows.append((run, cells))
    return Inverses(rows, [plot for plot in drawn if plot], [run for run in runs if run not in with_inverse])


def value(found: Any) -> str:
    return number(found) if is_number(found) else "–"
