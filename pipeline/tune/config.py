"""Options of `pipeline.tune`, its `best` and its `dashboard`. No heavy imports: `--help` prints from these classes."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import tyro

from pipeline.config.checks import check_minimum, raise_problems
from pipeline.config.options import defaults
from pipeline.config.train import LrSchedule, TrainConfig, flat_options

QUARTERS = 4
"""Validations of a trial, one at each quarter of its budget."""
TRIAL_IMAGES, TRIAL_IMAGES_LAPTOP = 300_000, 3_000
"""Default budget of a trial, images: of most presets, and of the preset laptop."""
NOT_IDENTITY = {"trials", "concurrent", "cpus_per_trial", "gpus_per_trial", "memory_gb"}
NOT_IDENTITY |= {"data", "out", "name", "nodes", "workers_per_node", "ray", "dry_run", "config"}
"""Options that may differ when a search is resumed."""


@dataclass(frozen=True)
class TuneConfig:
    """Search for the best K, L, learning rate and schedule. The same command again resumes an interrupted search.

    Every option of `pipeline.train` is one here too: the base of each trial, whose hyperparameters the search changes
    in the ranges below. `--max-images` is the budget of one trial; `--name` and `--out` choose the search's folder
    (default: IRAE_STORE/searches/NAME). `python -m pipeline.tune best` writes the best trial's configuration,
    `python -m pipeline.tune dashboard` shows all trials.
    """

    K_range: tuple[int, int] = (2, 8)
    """irae: fewest and most flow steps in a level."""
    L_range: tuple[int, int] = (1, 2)
    """irae: fewest and most levels."""
    lr_range: tuple[float, float] = (2e-4, 5e-3)
    """Lowest and highest learning rate; sampled log-uniformly."""
    lr_schedules: tuple[LrSchedule, ...] = get_args(LrSchedule)
    """Schedules to choose from; each adds its own hyperparameters to the search space."""
    widths: tuple[int, ...] = ()
    """Widths of the couplings' nets to choose from. Default of this and the next two: the base's value alone."""
    scale_mins: tuple[float, ...] = ()
    """Smallest factors of the couplings to choose from."""
    batches: tuple[int, ...] = ()
    """Global batch sizes to choose from."""
    trials: int = 12
    """Trials of the whole search, over all its resumptions."""
    second_objective: Literal["none", "parameters", "images-per-sec"] = "none"
    """Objective beside PSNR, for a Pareto front: fewer parameters, or more images trained per second."""
    sampler: Literal["tpe", "random"] = "tpe"
    """Sampler of the hyperparameters: multivariate TPE (a model of the finished trials) or random."""
    asha: bool = True
    """Prune trials whose PSNR is in the lower half at a quarter or a half of their budget (ASHA). --no-asha: none."""
    concurrent: int | None = None
    """Trials that run at once. Default: as many as fit into the cluster."""
    cpus_per_trial: int = 1
    """Processors of a trial of one worker."""
    gpus_per_trial: float | None = None
    """GPUs of a trial of one worker. Default: 1 where there are any."""
    memory_gb: float | None = None
    """Memory limit of a worker. Default: its share of the machine, or its GPU. A trial that needs more is pruned."""
    base: tyro.conf.OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)
    """Training configuration that all trials start from."""

    @property
    def trial_images(self) -> int:
        """Budget of one trial, images."""
        assert self.base.budget.max_images
        return self.base.budget.max_images

    @property
    def is_irae(self) -> bool:
        return self.base.model.name == "irae"

    def problems(self) -> list[str]:
        """Every mistake that shows without the data set, a sentence each."""
        problems = self.base.problems()
        check_minimum(problems, 1, trials=self.trials, concurrent=self.concurrent, cpus_per_trial=self.cpus_per_trial)
        check_minimum(problems, 0, gpus_per_trial=self.gpus_per_trial)
        ranges = (("K", self.K_range, 1), ("L", self.L_range, 1), ("lr", self.lr_range, 1e-9))
        for name, (low, high), least in ranges:
            if low > high:
                problems.append(f"--{name}-range {low:g} {high:g} is the wrong way round; give the lower bound first.")
            if low < least:
                problems.append(f"--{name}-range begins at {low:g}, but must begin at {least:g} or above.")
        if not self.lr_schedules:
            problems.append(f"--lr-schedules is empty; name one or more of {', '.join(get_args(LrSchedule))}.")
        choices = {"widths": self.widths, "scale-mins": self.scale_mins, "batches": self.batches}
        for option, values in choices.items():
            if option != "batches" and values and not self.is_irae:
                problems.append(f"--{option} is for --model irae; leave it out with {self.base.model.name}.")
            if option != "scale-mins":
                problems += [f"--{option} holds {value}, but must be at least 1." for value in values if value < 1]
            elif any(not 0 <= value < 1 for value in values):
                problems.append(f"--scale-mins is {values}, but each must be from 0 to below 1.")
        varies = any(low < high for name, (low, high), _ in ranges if self.is_irae or name == "lr")
        if not varies and max(map(len, choices.values())) <= 1 and not {*self.lr_schedules} - {"constant"}:
            problems.append("the search space holds one point only: widen --K-range, --L-range or --lr-range.")
        if not self.base.budget.max_images or self.base.budget.max_minutes:
            problems.append("trials are compared at equal numbers of images: give --max-images, and no --max-minutes.")
        if self.memory_gb is not None and self.memory_gb <= 0:
            problems.append(f"--memory-gb is {self.memory_gb:g}, but must be above 0.")
        return problems

    def identity(self) -> dict[str, Any]:
        """Content of search.json: the space, and the base."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in NOT_IDENTITY}


def comparable(identity: dict[str, Any]) -> dict[str, Any]:
    """The options in a search.json of any version that must be equal when the search is resumed, in today's names."""
    base = {**TrainConfig().options(), **flat_options(identity["base"])}
    options = {"second_objective": identity.get("against"), **identity, **base}
    compared = {*options} - NOT_IDENTITY - {"base", "against"}
    return json.loads(json.dumps({name: options[name] for name in sorted(compared)}))


@dataclass(frozen=True)
class BestConfig:
    """Best trial of a search: a table of all trials, best.json for `pipeline.train --config`, and plots in report/."""

    search: tyro.conf.Positional[str | None] = None
    """URL or name of the search. Default: the only one below IRAE_STORE/searches."""
    trial: int | None = None
    """Number of the trial to take instead of the best one."""
    repeats: int = 0
    """Trainings of the same configuration with other seeds, which measure how far its PSNR varies."""
    out: Path = Path("best.json")
    """File for the best trial's configuration, on this machine."""

    def __post_init__(self) -> None:
        problems: list[str] = []
        check_minimum(problems, 0, trial=self.trial, repeats=self.repeats)
        raise_problems(problems)


@dataclass(frozen=True)
class DashboardConfig:
    """Show a search in the browser: while it runs, before its first trial has finished, and afterwards."""

    search: tyro.conf.Positional[str | None] = None
    """URL or name of the search. Default: the only one below IRAE_STORE/searches."""
    port: int = 8080
    """Port on 127.0.0.1. To look from another machine: `ssh -L 8080:127.0.0.1:8080 MACHINE`."""


def base_defaults(arguments: list[str]) -> TuneConfig:
    """The preset, or --config, as the base of all trials, with the budget of a trial instead of a run's."""
    base = defaults(arguments)
    images = base.budget.max_images or (TRIAL_IMAGES_LAPTOP if base.preset == "laptop" else TRIAL_IMAGES)
    return TuneConfig(base=base.with_options(max_minutes=None, max_images=images, name=None))
