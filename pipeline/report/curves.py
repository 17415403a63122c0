"""Training curves, and the error and conditioning of the inverse, over images seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.report.load import RunFacts
from pipeline.report.svg_plot import Line, Plot, draw_plot, number_text
from pipeline.runs.texts import formatted, is_number, task_title, url_name

ROUND_TRIP, CONDITION, SCALE = "round_trip_max_error", "condition_number_max", "coupling_scale_min"


@dataclass(frozen=True)
class Curves:
    """Plots of some runs, and their figures: headings and texts of each run."""

    title: str
    rows: list[tuple[RunFacts, list[tuple[str, str]]]]
    plots: list[Plot]


def trainings(runs: Sequence[RunFacts]) -> list[Curves]:
    """Curves of the runs on the same data for the same task, in the order of the runs."""
    groups: dict[tuple[str, str], list[RunFacts]] = {}
    for run in runs:
        groups.setdefault((str(run.options.get("data")), run.task), []).append(run)
    return [
        Curves(
            f"{url_name(data)}, {task_title(label)}", [(run, final_state(run)) for run in group], training_plots(group)
        )
        for (data, label), group in groups.items()
    ]


def training_plots(runs: Sequence[RunFacts]) -> list[Plot]:
    """Plots of the metrics that the runs have."""
    validation = metric_lines(runs, "val_psnr_db")
    if degraded := metric_lines(runs, "val_psnr_db_degraded"):
        longest = max(degraded, key=lambda line: line.points[-1][0])
        validation.append(Line("degraded", longest.points, -1, dashed=True))
    drawn = draw_plot("Validation PSNR (dB)", validation)
    return [*([drawn] if drawn else []), *log_plots(runs, {"Training loss, L1": "loss", "Learning rate": "lr"})]


def log_plots(runs: Sequence[RunFacts], metrics: Mapping[str, str]) -> list[Plot]:
    """A plot for each metric (title -> name) that a run has, with a logarithmic y axis."""
    drawn = (draw_plot(title, metric_lines(runs, name), log=True) for title, name in metrics.items())
    return [plot for plot in drawn if plot]


def metric_lines(runs: Sequence[RunFacts], metric: str) -> list[Line]:
    """A line for each run that has the metric."""
    lines = (
        Line(
            run.label, [(row["images_seen"], row[metric]) for row in run.rows if is_number(row.get(metric))], run.color
        )
        for run in runs
    )
    return [line for line in lines if line.points]


def final_state(run: RunFacts) -> list[tuple[str, str]]:
    """Newest metrics of a run."""
    texts = {
        "Images seen": formatted(run.last.get("images_seen"), ",.0f", "–"),
        "Epochs": formatted(run.last.get("epoch"), ".1f", "–"),
        "Time": duration(run.last.get("train_s")),
        "Images/s": formatted(run.last.get("images_per_sec"), ",.0f", "–"),
        "Loss": formatted(run.last.get("loss"), ".4f", "–"),
        "Best validation PSNR (dB)": formatted(run.best.get("val_psnr_db"), ".2f", "–"),
    }
    return list(texts.items())


def duration(seconds: Any) -> str:
    """3725 -> 1 h 2 min."""
    if not is_number(seconds):
        return "–"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def inverses(runs: Sequence[RunFacts]) -> Curves:
    """Metrics of the runs that have an inverse: from the validations, and from the evaluations over all images."""
    invertible = [run for run in runs if run.model == "irae"]
    rows = []
    for run in invertible:
        evaluated = [e.metrics[ROUND_TRIP] for e in run.evaluations if is_number(e.metrics.get(ROUND_TRIP))]
        values: dict[str, Any] = {
            "Round trip, evaluated images": max(evaluated, default=None),
            "Round trip, last validation": run.last.get(ROUND_TRIP),
            "Condition number, largest": run.last.get(CONDITION),
            "Coupling factor, smallest": run.last.get(SCALE),
        }
        rows.append((run, [(title, number_text(v) if is_number(v) else "–") for title, v in values.items()]))
    metrics = {
        "Round-trip error, largest": ROUND_TRIP,
        "Condition number, largest": CONDITION,
        "Coupling factor, smallest": SCALE,
    }
    return Curves("How exactly it inverts", rows, log_plots(invertible, metrics))
