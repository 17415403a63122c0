"""The plots of a search: report/index.html, one file that needs no network."""

from __future__ import annotations

import html
import warnings
from collections import Counter
from collections.abc import Callable

import optuna
import plotly.graph_objects as go
from optuna import visualization
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from pipeline.tune.folder import REPORT, StudyFolder, curve, state_text

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body{{font:16px system-ui,sans-serif;margin:2em auto;max-width:1100px}}h2{{margin-top:2em}}</style>
<h1>{title}</h1><p>{summary}</p>{figures}</html>
"""
PSNR = "PSNR (dB)"


def write_plots(folder: StudyFolder) -> str:
    """Write the page to the search's folder; returns its URL."""
    study = with_objectives(folder.study(), lambda trial: [psnr_db(trial)], False)
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


def with_objectives(study: Study, values: Callable[[FrozenTrial], list[float]], *minimized: bool) -> Study:
    """In-memory copy with other objectives and all curves, for Optuna's own plots."""
    directions = [StudyDirection.MINIMIZE if is_minimized else StudyDirection.MAXIMIZE for is_minimized in minimized]
    copy = optuna.create_study(directions=directions)
    for trial in study.get_trials():
        trial.intermediate_values = curve(trial)
        trial.values = values(trial) if trial.values else None
        copy.add_trial(trial)
    return copy


def summary(study: Study) -> str:
    """Number of trials in each state, and the best PSNR."""
    trials = study.get_trials(deepcopy=False)
    counts = Counter(state_text(trial.state) for trial in trials)
    best = max(map(psnr_db, finished(study)), default=None)
    text = f"{len(trials)} trials: {', '.join(f'{count} {state}' for state, count in counts.items())}."
    return text if best is None else f"{text} Best validation PSNR {best:.2f} dB."


def finished(study: Study) -> list[FrozenTrial]:
    """Trials that used up their budget."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def psnr_db(trial: FrozenTrial) -> float:
    """PSNR of a finished trial, its first objective."""
    assert trial.values
    return trial.values[0]


def importances(study: Study) -> go.Figure:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # few trials have a hyperparameter
        return visualization.plot_param_importances(study, target_name=PSNR)


def pareto(study: Study, attribute: str, label: str, is_minimized: bool) -> go.Figure:
    """PSNR over another measurement of each finished trial."""
    both = with_objectives(study, lambda trial: [trial.user_attrs[attribute], psnr_db(trial)], is_minimized, False)
    return visualization.plot_pareto_front(both, target_names=[label, PSNR])


def curves(study: Study) -> go.Figure:
    """PSNR over images of every trial, dotted where it was pruned."""
    pruned = {f"Trial{trial.number}" for trial in study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))}
    figure = visualization.plot_intermediate_values(study).update_layout(showlegend=True)
    for line in figure.data:
        if line.name in pruned:
            line.update(name=f"{line.name} (pruned)", line={"dash": "dot"})
    return figure.update_xaxes(title="images seen").update_yaxes(title="best validation PSNR so far (dB)")


PLOTS: dict[str, Callable[[Study], go.Figure]] = {
    "Optimisation history": lambda study: visualization.plot_optimization_history(study, target_name=PSNR),
    "Importance of the hyperparameters": importances,
    "PSNR and parameters, with the Pareto front": lambda study: pareto(study, "parameters", "parameters", True),
    "PSNR and speed, with the Pareto front": lambda study: pareto(study, "images_per_sec", "images per second", False),
    "Learning curves, with those pruned by ASHA": curves,
    "Parallel coordinates": lambda study: visualization.plot_parallel_coordinate(study, target_name=PSNR),
}
