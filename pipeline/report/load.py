"""What the runs' folders hold: configuration, curves, evaluations. Everything in them is checked before it is used."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from infra.storage import StorageError, UserError
from pipeline.config.task import task_label
from pipeline.config.train import TrainConfig, train_config
from pipeline.runs.evaluations import EVALUATIONS, Evaluation, one_line, read_evaluation
from pipeline.runs.find import find_run, open_checked
from pipeline.runs.folder import BEST, CONFIG, Run

TITLES = {"irae": "IRAE", "dncnn": "DnCNN", "ffdnet": "FFDNet", "unet": "U-Net", "arcnn": "AR-CNN"}


@dataclass(frozen=True)
class RunFacts:
    """One run, as its folder tells it."""

    url: str
    config: dict[str, Any]
    rows: list[dict[str, Any]]
    """Of metrics.parquet, by images seen."""
    best: dict[str, Any]
    evaluations: list[Evaluation]
    color: int = 0
    """The same everywhere on the page."""
    label: str = field(default="")
    """The shortest name that no other run on the page has."""

    @property
    def name(self) -> str:
        return str(self.config.get("name") or self.url.rstrip("/").rpartition("/")[2])

    @property
    def system(self) -> str:
        return system_title(str(self.config.get("system", "irae")))

    @property
    def parsed(self) -> TrainConfig | None:
        """The configuration; None when it is another version's."""
        try:
            return train_config(self.config)
        except (ValueError, TypeError, AttributeError):
            return None

    @property
    def task(self) -> str:
        """What it was trained for, as the evaluations name it."""
        return task_label(self.parsed) if self.parsed else str(self.config.get("task", ""))

    @property
    def last(self) -> dict[str, Any]:
        """The newest value of each figure."""
        found: dict[str, Any] = {}
        for row in self.rows:
            found |= {name: value for name, value in row.items() if value is not None}
        return found


def read_runs(places: Sequence[str | None]) -> list[RunFacts]:
    """The runs (URLs or names; None: the only one), each once. ValueError, with all problems, for what is no run."""
    found: dict[str, RunFacts] = {}
    problems = []
    for place in places:
        try:
            facts = read_run(place)
            found.setdefault(facts.url, facts)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))
    runs = list(found.values())
    for attribute in ("system", "name", "url"):
        labels = [getattr(run, attribute) for run in runs]
        if len(set(labels)) == len(labels):
            break
    return [
        RunFacts(run.url, run.config, run.rows, run.best, run.evaluations, color, label)
        for color, (run, label) in enumerate(zip(runs, labels, strict=True))
    ]


def read_run(place: str | None) -> RunFacts:
    """One run. ValueError when there is none, or when a file of it is damaged."""
    run = Run(open_checked(find_run(place)))
    try:
        config = run.read_json(CONFIG)
        best = run.read_json(BEST)
        rows = run.read_metrics(until_images=sys.maxsize)
    except StorageError:
        raise
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise UserError(f"the run {run.store.url} has a damaged file ({one_line(error)}); restore it.") from None
    if not isinstance(config, dict):
        raise UserError(f"{run.store.url} is no run: it has no {CONFIG}; name another one.")
    evaluations = [read_evaluation(run.store.at(EVALUATIONS, name)) for name in run.store.folders(EVALUATIONS)]
    return RunFacts(run.store.url, config, rows, best or {}, [e for e in evaluations if e])


def system_title(system: str) -> str:
    """As the papers write it: dncnn-17 -> DnCNN-17."""
    name, dash, rest = system.partition("-")
    return TITLES.get(name, name) + dash + rest


def task_title(label: str) -> str:
    """noise25 -> denoising σ = 25, with spaces that do not break."""
    for pattern, title in (
        (r"noise-blind", "blind denoising"),
        (r"noise([\d.]+)", "denoising σ\u00a0=\u00a0{}"),
        (r"jpeg(\d+)", "JPEG quality\u00a0{}"),
        (r"inpaint-(\w+)", "inpainting, {}"),
    ):
        if match := re.fullmatch(pattern, label):
            return title.format(*match.groups())
    return label


def last_part(url: str) -> str:
    """A data set's or run's own name."""
    return url.rstrip("/").rpartition("/")[2]
