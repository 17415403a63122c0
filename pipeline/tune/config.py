"""What `pipeline.tune` can be told. No heavy import here: `--help` prints from these classes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import tyro

from pipeline.config.checks import check_minimum, raise_problems
from pipeline.config.options import defaults
from pipeline.config.train import LrSchedule, TrainConfig

Objective = Literal["none", "parameters", "images-per-sec"]
QUARTERS = 4
"""A trial is validated, and may be cut, at each quarter of its images."""
TRIAL_IMAGES = {"laptop": 3_000}
TRIAL_IMAGES_OTHERS = 300_000
"""A trial's budget unless --max-images says another."""


@dataclass(frozen=True)
class TuneConfig:
    """Search for the best K, L, learning rate and schedule. The same command again goes on where it was interrupted.

    Every option of `pipeline.train` is one here too: the base of each trial, which the search changes in the ranges
    below. `--max-images` is one trial's budget, `--name` and `--out` say where the search lives (IRAE_STORE/searches).
    `python -m pipeline.tune best` trains, writes and plots the winner, `python -m pipeline.tune dashboard` shows all.
    """

    K_range: tuple[int, int] = (2, 8)
    """irae: fewest and most flow steps in a level."""
    L_range: tuple[int, int] = (1, 2)
    """irae: fewest and most levels."""
    lr_range: tuple[float, float] = (2e-4, 5e-3)
    """Lowest and highest learning rate; sampled by its logarithm."""
    lr_schedules: tuple[LrSchedule, ...] = get_args(LrSchedule)
    """Schedules to choose from; each brings parameters of its own into the search."""
    widths: tuple[int, ...] = ()
    """Widths of the couplings' nets to choose from. Default: --width alone; so with the next two."""
    scale_mins: tuple[float, ...] = ()
    """Smallest factors of the couplings to choose from."""
    batches: tuple[int, ...] = ()
    """Global batches to choose from."""
    trials: int = 12
    """Trials of the whole search, all of its runs together."""
    against: Objective = "none"
    """A second objective beside PSNR, for a Pareto front: fewer parameters, or more images trained a second."""
    sampler: Literal["tpe", "random"] = "tpe"
    """Where the next trial lies: what the finished ones suggest (multivariate TPE), or anywhere."""
    asha: bool = True
    """Trials whose PSNR is in the lower half at a quarter or a half of their images are cut (ASHA). --no-asha: none."""
    concurrent: int | None = None
    """Trials at once. Default: as many as the cluster holds."""
    cpus_per_trial: int = 1
    """Processors of a trial of one worker."""
    gpus_per_trial: float | None = None
    """GPUs of a trial of one worker. Default: 1 where there are any."""
    memory_gb: float | None = None
    """What a worker may take. Default: its share of the machine, or its GPU. A trial that needs more is skipped."""
    base: tyro.conf.OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)
    """The training configuration that trials start from."""

    @property
    def workers(self) -> int:
        """Workers of one trial."""
        return self.base.nodes * (self.base.workers_per_node or 1)

    def problems(self) -> list[str]:
        """Everything that is wrong with it, a sentence each; what depends on the data set is found later."""
        problems = self.base.problems()
        check_minimum(problems, 1, trials=self.trials, concurrent=self.concurrent, cpus_per_trial=self.cpus_per_trial)
        for name, (low, high), least in (
            ("K-range", self.K_range, 1),
            ("L-range", self.L_range, 1),
            ("lr-range", self.lr_range, 1e-9),
        ):
            if low > high:
                problems.append(f"--{name} {low:g} {high:g} is the wrong way round; give the lower bound first.")
            if low < least:
                problems.append(f"--{name} begins at {low:g}, but must begin at {least:g} or above.")
        if self.base.system != "irae":
            problems += [
                f"--{option} is for --system irae; leave it out with {self.base.system}."
                for option, values in (("widths", self.widths), ("scale-mins", self.scale_mins))
                if values
            ]
        if not self.lr_schedules:
            problems.append(f"--lr-schedules is empty; name one or more of {', '.join(get_args(LrSchedule))}.")
        for names, option in ((self.widths, "widths"), (self.batches, "batches")):
            problems += [f"--{option} holds {value}, but must be at least 1." for value in names if value < 1]
        problems += [
            f"--scale-mins holds {m}, but must be from 0 to below 1." for m in self.scale_mins if not 0 <= m < 1
        ]
        if self.is_one_point:
            problems.append("the search space holds one point only: widen --K-range, --L-range or --lr-range.")
        if not self.base.max_images or self.base.max_minutes:
            problems.append("trials are compared at equal numbers of images: give --max-images, and no --max-minutes.")
        for name, value in (("gpus-per-trial", self.gpus_per_trial), ("memory-gb", self.memory_gb)):
            if value is not None and (value < 0 or (name == "memory-gb" and value == 0)):
                problems.append(f"--{name} is {value:g}, but must be above 0.")
        return problems

    @property
    def is_one_point(self) -> bool:
        """Nothing varies."""
        ranges = [self.lr_range, *((self.K_range, self.L_range) if self.base.system == "irae" else ())]
        choices = (self.widths, self.batches, self.scale_mins)
        schedules = set(self.lr_schedules) - {"constant"}
        return all(low == high for low, high in ranges) and max(map(len, choices)) <= 1 and not schedules

    def identity(self) -> dict[str, object]:
        """What makes the search what it is (JSON values): its space, and the base without where it runs."""
        values = dataclasses.asdict(self)
        for name in ("trials", "concurrent", "cpus_per_trial", "gpus_per_trial", "memory_gb"):
            del values[name]
        base = values["base"]
        for name in ("data", "out", "name", "nodes", "workers_per_node", "ray", "dry_run", "config"):
            base.pop(name, None)
        return values


@dataclass(frozen=True)
class BestConfig:
    """The winner of a search: a table of all trials, best.json for `pipeline.train --config`, and plots in report/."""

    search: tyro.conf.Positional[str | None] = None
    """URL or name of the search. Default: the only one below IRAE_STORE/searches."""
    trial: int | None = None
    """Take this trial instead of the best one."""
    repeats: int = 0
    """Train it so many times again, with other seeds, to know how far its PSNR can be trusted."""
    out: Path = Path("best.json")
    """Where the winner's configuration is written on this machine."""

    def __post_init__(self) -> None:
        problems: list[str] = []
        check_minimum(problems, 0, trial=self.trial, repeats=self.repeats)
        raise_problems(problems)


@dataclass(frozen=True)
class DashboardConfig:
    """Show a search in the browser: while it runs, before its first trial has ended, and afterwards."""

    search: tyro.conf.Positional[str | None] = None
    """URL or name of the search. Default: the only one below IRAE_STORE/searches."""
    host: str = "127.0.0.1"
    """Address to listen on. Other than this machine's own needs the token that is printed."""
    port: int = 8080
    """The next free one is taken when it is in use."""
    tensorboard: bool = True
    """Start TensorBoard beside it, for all trials (--no-tensorboard: not)."""

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise_problems([f"--port is {self.port}, but must be from 1 to 65535."])


def base_defaults(arguments: list[str]) -> TuneConfig:
    """The preset, or --config, as the base of all trials, with a trial's budget instead of a run's."""
    base = defaults(arguments)
    images = TRIAL_IMAGES.get(base.preset, TRIAL_IMAGES_OTHERS)
    return TuneConfig(base=dataclasses.replace(base, max_minutes=None, max_images=base.max_images or images, name=None))
