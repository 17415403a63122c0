"""The plots of a search: report/index.html, one file that needs no network."""

from __future__ import annotations

import functools
import html
import warnings
from collections import Counter
from collections.abc import Callable, Iterator

import plotly.graph_objects as go
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.study import Study
from optuna.trial import FrozenTrial
from optuna.visualization import plot_optimization_history, plot_parallel_coordinate, plot_param_importances

from infra.storage import UserError
from pipeline.tune.folder import REPORT, StudyFolder, curve, state_text

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body{{font:16px system-ui,sans-serif;margin:2em auto;max-width:1100px}}h2{{margin-top:2em}}</style>
<h1>{title}</h1><p>{summary}</p>{figures}</html>
"""


def write_plots(folder: StudyFolder) -> str:
    """Write the page to the search's folder; returns its URL."""
    study = folder.study()
    parts: list[str] = []
    for title, plot in PLOTS.items():
        try:
            figure = plot(study)
        except (ValueError, RuntimeError) as error:  # Optuna's, where there are too few trials
            content = f"<p>No plot yet: {html.escape(str(error))}</p>"
        else:
            figure.update_layout(title=None, template="plotly_white", height=480)
            content = figure.to_html(full_html=False, include_plotlyjs=not any("<script" in part for part in parts))
        parts.append(f"<h2>{title}</h2>{content}")
    title = f"Search {html.escape(folder.store.url)}"
    folder.store.put(REPORT, PAGE.format(title=title, summary=summary(study), figures="".join(parts)).encode())
    return f"{folder.store.url}/{REPORT}"


def summary(study: Study) -> str:
    """Number of trials in each state, and the best PSNR."""
    trials = study.get_trials(deepcopy=False)
    counts = Counter(state_text(trial.state) for trial in trials)
    best = max(map(psnr_db, finished(study)), default=None)
    text = f"{len(trials)} trials: {', '.join(f'{count} {state}' for state, count in counts.items())}."
    return text if best is None else f"{text} Best validation PSNR {best:.2f} dB."


def finished(study: Study) -> list[FrozenTrial]:
    """Trials that used up their budget."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]


def psnr_db(trial: FrozenTrial) -> float:
    """PSNR of a finished trial, its first objective."""
    assert trial.values
    return trial.values[0]


def history(study: Study) -> go.Figure:
    several = len(study.directions) > 1  # without a target, Optuna adds the line of the best so far
    return plot_optimization_history(study, target=psnr_db if several else None, target_name="PSNR (dB)")


def importances(study: Study) -> go.Figure:
    evaluator = PedAnovaImportanceEvaluator()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # few trials have a hyperparameter; the target's sign
        return plot_param_importances(study, evaluator=evaluator, target=lambda t: -psnr_db(t), target_name="PSNR (dB)")


def psnr_versus(attribute: str, label: str, smaller_is_better: bool, study: Study) -> go.Figure:
    """PSNR over another measurement of each finished trial, with the Pareto front."""
    points = [(trial.user_attrs[attribute], psnr_db(trial), trial.number) for trial in finished(study)]
    if not points:
        raise UserError("no trial has finished.")
    front = list(pareto(sorted(points, reverse=not smaller_is_better)))
    figure = go.Figure()
    for name, chosen, mode in (("trials", points, "markers"), ("Pareto front", front, "lines+markers")):
        xs, ys, numbers = zip(*chosen, strict=True)
        figure.add_scatter(x=xs, y=ys, mode=mode, name=name, text=[f"trial {number}" for number in numbers])
    return figure.update_xaxes(title=label).update_yaxes(title="PSNR (dB)")


def pareto(points: list[tuple[float, float, int]]) -> Iterator[tuple[float, float, int]]:
    """Pareto front of points sorted from the best first coordinate to the worst: each has a higher second than all
    before it."""
    highest = float("-inf")
    for point in points:
        if point[1] > highest:
            highest = point[1]
            yield point


def curves(study: Study) -> go.Figure:
    """PSNR over images of every trial; a cross where it was pruned."""
    figure = go.Figure()
    for trial in study.get_trials(deepcopy=False):
        points = curve(trial)
        if not points:
            continue
        is_pruned = trial.state.name == "PRUNED"
        figure.add_scatter(
            x=[*points],
            y=[*points.values()],
            name=f"trial {trial.number}" + (" (pruned)" if is_pruned else ""),
            mode="lines+markers",
            marker={"symbol": ["circle"] * (len(points) - 1) + ["x" if is_pruned else "circle"], "size": 9},
            line={"dash": "dot" if is_pruned else "solid"},
        )
    return figure.update_xaxes(title="images seen").update_yaxes(title="best validation PSNR so far (dB)")


PLOTS: dict[str, Callable[[Study], go.Figure]] = {
    "Optimisation history": history,
    "Importance of the hyperparameters": importances,
    "PSNR and parameters": functools.partial(psnr_versus, "parameters", "parameters", True),
    "PSNR and speed": functools.partial(psnr_versus, "images_per_sec", "images trained per second", False),
    "Learning curves, with those pruned by ASHA": curves,
    "Parallel coordinates": functools.partial(plot_parallel_coordinate, target=psnr_db, target_name="PSNR (dB)"),
}
