"""The plots of a search: report/index.html, one file that needs no network."""

from __future__ import annotations

import html
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from infra.storage import UserError
from pipeline.tune.folder import Home, curve

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

REPORT = "report/index.html"
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body{{font:16px system-ui,sans-serif;margin:2em auto;max-width:1100px}}h2{{margin-top:2em}}</style>
<h1>{title}</h1><p>{summary}</p>{figures}</html>
"""


def write_report(home: Home) -> str:
    """Write the page to the search's folder; returns its URL."""
    study = home.study()
    parts: list[str] = []
    for title, draw in PLOTS.items():
        try:
            figure = draw(study)
        except (ValueError, RuntimeError) as error:  # Optuna's, where there are too few trials
            content = f"<p>Not to be drawn yet: {html.escape(str(error))}</p>"
        else:
            figure.update_layout(title=None, template="plotly_white", height=480)
            content = figure.to_html(full_html=False, include_plotlyjs=not any("<script" in part for part in parts))
        parts.append(f"<h2>{title}</h2>{content}")
    name = html.escape(home.store.url)
    page = PAGE.format(title=f"Search {name}", summary=summary(study), figures="".join(parts))
    home.store.put(REPORT, page.encode())
    return f"{home.store.url}/{REPORT}"


def summary(study: Study) -> str:
    """How the trials ended, in a sentence."""
    trials = study.get_trials(deepcopy=False)
    states = [trial.state.name for trial in trials]
    counts = ", ".join(f"{states.count(state)} {state.lower()}" for state in dict.fromkeys(states))
    best = max(map(_psnr, finished(study)), default=None)
    return f"{len(trials)} trials: {counts}." + (f" Best validation PSNR {best:.2f} dB." if best is not None else "")


def finished(study: Study) -> list[FrozenTrial]:
    """Trials that ran to their end."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]


def history(study: Study) -> Any:
    from optuna.visualization import plot_optimization_history

    several = len(study.directions) > 1  # without a target, the line of the best so far is drawn too
    return plot_optimization_history(study, target=_psnr if several else None, target_name="PSNR (dB)")


def importances(study: Study) -> Any:
    from optuna.importance import PedAnovaImportanceEvaluator
    from optuna.visualization import plot_param_importances

    evaluator = PedAnovaImportanceEvaluator()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that few trials had a parameter, and which sign it wants
        return plot_param_importances(study, evaluator=evaluator, target=lambda t: -_psnr(t), target_name="PSNR (dB)")


def parallel(study: Study) -> Any:
    from optuna.visualization import plot_parallel_coordinate

    return plot_parallel_coordinate(study, target=_psnr, target_name="PSNR (dB)")


def _psnr(trial: FrozenTrial) -> float:
    assert trial.values
    return trial.values[0]


def against(attribute: str, label: str, smaller_is_better: bool) -> Callable[[Study], Any]:
    """PSNR against another figure of each finished trial, with the front of those that no other one beats in both."""

    def draw(study: Study) -> Any:
        import plotly.graph_objects as go

        points = [(t.user_attrs[attribute], _psnr(t), t.number) for t in finished(study)]
        if not points:
            raise UserError("no trial has ended.")
        front = list(pareto(sorted(points, reverse=not smaller_is_better)))
        figure = go.Figure()
        for name, chosen, mode in (("trials", points, "markers"), ("Pareto front", front, "lines+markers")):
            xs, ys, numbers = zip(*chosen, strict=True)
            figure.add_scatter(x=xs, y=ys, mode=mode, name=name, text=[f"trial {number}" for number in numbers])
        return figure.update_xaxes(title=label).update_yaxes(title="PSNR (dB)")

    return draw


def pareto(points: list[tuple[float, float, int]]) -> Iterator[tuple[float, float, int]]:
    """Of points that are sorted from the best first figure to the worst: those whose second no earlier one reaches."""
    highest = float("-inf")
    for point in points:
        if point[1] > highest:
            highest = point[1]
            yield point


def curves(study: Study) -> Any:
    """PSNR over images of every trial; a cross where it was cut."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for trial in study.get_trials(deepcopy=False):
        points = curve(trial)
        if not points:
            continue
        is_cut = trial.state.name == "PRUNED"
        figure.add_scatter(
            x=[*points],
            y=[*points.values()],
            name=f"trial {trial.number}" + (" (cut)" if is_cut else ""),
            mode="lines+markers",
            marker={"symbol": ["circle"] * (len(points) - 1) + ["x" if is_cut else "circle"], "size": 9},
            line={"dash": "dot" if is_cut else "solid"},
        )
    return figure.update_xaxes(title="images seen").update_yaxes(title="best validation PSNR so far (dB)")


PLOTS: dict[str, Callable[[Study], Any]] = {
    "Optimisation history": history,
    "Importance of the parameters": importances,
    "PSNR and parameters": against("parameters", "parameters", smaller_is_better=True),
    "PSNR and speed": against("images_per_sec", "images trained a second", smaller_is_better=False),
    "Learning curves, with ASHA's cuts": curves,
    "Parallel coordinates": parallel,
}
