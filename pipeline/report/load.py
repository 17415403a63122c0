"""Runs from their folders: configuration, metrics, evaluations. Every file is checked before it is used."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from infra.storage import StorageError, UserError
from pipeline.config.checks import raise_problems
from pipeline.config.train import TrainConfig, flat_options, train_config
from pipeline.runs.checkpoints import BEST
from pipeline.runs.evaluations import EVALUATIONS, Evaluation, one_line, read_evaluation
from pipeline.runs.find import find_run, open_checked
from pipeline.runs.folder import CONFIG, Run
from pipeline.runs.texts import model_title, url_name


@dataclass(frozen=True)
class RunFacts:
    """One run of the page."""

    url: str
    options: dict[str, Any]
    """Values of config.json by option name."""
    config: TrainConfig | None
    """The same; None when this version cannot read it."""
    rows: list[dict[str, Any]]
    """Rows of metrics.parquet, by images seen."""
    best: dict[str, Any]
    evaluations: list[Evaluation]
    color: int = 0
    """Index of its colour, the same everywhere on the page."""
    label: str = ""
    """Shortest name that no other run of the page has."""

    @property
    def name(self) -> str:
        return str(self.options.get("name") or url_name(self.url))

    @property
    def model(self) -> str:
        return str(self.options.get("model", "irae"))

    @property
    def model_title(self) -> str:
        return model_title(self.model)

    @property
    def task(self) -> str:
        """Label of the task it was trained for."""
        return self.config.task.label if self.config else str(self.options.get("task", ""))

    @property
    def last(self) -> dict[str, Any]:
        """The newest value of each metric."""
        return {name: value for row in self.rows for name, value in row.items() if value is not None}


def read_runs(runs: Sequence[str | None]) -> list[RunFacts]:
    """The runs (URLs or names; None: the only one), each once. UserError, with all problems, for a missing run."""
    found: dict[str, RunFacts] = {}
    problems = []
    for run in runs:
        try:
            facts = read_run(run)
            found.setdefault(facts.url, facts)
        except UserError as error:
            problems.append(str(error))
    raise_problems(problems)
    for attribute in ("model_title", "name", "url"):
        labels = [getattr(run, attribute) for run in found.values()]
        if len(set(labels)) == len(labels):
            break
    return [replace(run, color=i, label=labels[i]) for i, run in enumerate(found.values())]


def read_run(url_or_name: str | None) -> RunFacts:
    """One run. UserError when there is none, or when one of its files is damaged."""
    run = Run(open_checked(find_run(url_or_name)))
    try:
        values, best = run.read_json(CONFIG), run.read_json(BEST)
        rows = run.read_metrics(until_images=sys.maxsize)
    except StorageError:
        raise
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise UserError(f"the run {run.url} has a damaged file ({one_line(error)}); restore it.") from None
    if not isinstance(values, dict):
        raise UserError(f"{run.url} is no run: it has no {CONFIG}; name another one.")
    evaluations = [read_evaluation(run.store.at(EVALUATIONS, name)) for name in run.store.folders(EVALUATIONS)]
    options, config = values, None
    with suppress(ValueError, TypeError, AttributeError):  # another version's configuration
        options = flat_options(values)
        config = train_config(values)
    return RunFacts(run.url, options, config, rows, best or {}, [e for e in evaluations if e])
