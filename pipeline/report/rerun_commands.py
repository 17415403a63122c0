"""How a run is repeated: the commands, with every option that is not a default."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from typing import Any

from pipeline.config.presets import PRESETS
from pipeline.config.train import TrainConfig
from pipeline.report.load import RunFacts
from pipeline.runs.evaluations import Evaluation

NOT_REPEATED = {"config", "preset", "data", "name", "out", "dry_run", "model"}
"""Said in another way, or not part of what a run is."""


def commands(run: RunFacts) -> list[str]:
    """Train the same again under another name, then evaluate that; empty when this version cannot read the
    configuration."""
    config = run.parsed
    if config is None:
        return []
    again = f"{run.name}-again"
    found = [train_command(config, again)]
    found += [evaluate_command(run, evaluation, again) for evaluation in run.evaluations]
    return found if run.evaluations else [*found, shlex.join(["python", "-m", "pipeline.evaluate", "--run", again])]


def train_command(config: TrainConfig, name: str) -> str:
    """`python -m pipeline.train` with what makes this configuration of its preset."""
    preset = config.preset if config.preset in PRESETS else "standard"
    base = PRESETS[preset]
    words = ["python", "-m", "pipeline.train", "--preset", preset, "--data", str(config.data), "--name", name]
    for field in dataclasses.fields(TrainConfig):
        if field.name not in NOT_REPEATED and getattr(config, field.name) != getattr(base, field.name):
            words += option(field.name, getattr(config, field.name))
    for field in dataclasses.fields(config.model):
        if getattr(config.model, field.name) != getattr(base.model, field.name):
            words += option(field.name, getattr(config.model, field.name))
    return shlex.join(words)


def option(name: str, value: Any) -> list[str]:
    """As the command line wants it."""
    dashed = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{dashed}" if value else f"--no-{dashed}"]
    return [f"--{dashed}", str(value)]


def evaluate_command(run: RunFacts, evaluation: Evaluation, name: str, keep: Sequence[str] = ()) -> str:
    """`python -m pipeline.evaluate` as it was asked, for the run of this name or URL; `keep`: keys of pictures to keep
    besides."""
    metrics = evaluation.metrics
    words = ["python", "-m", "pipeline.evaluate", "--run", name]
    if metrics["data"] != run.config.get("data"):
        words += ["--data", metrics["data"]]
    for name, key, usual in (
        ("split", "split", "test"),
        ("protocol", "protocol", "standard"),
        ("sigma-255", "sigma_255", run.config.get("sigma_255")),
        ("seed", "noise_seed", 0),
    ):
        if metrics.get(key) not in (None, usual):
            words += [f"--{name}", str(metrics[key])]
    if keep:
        words += ["--keep", *keep]
    return shlex.join(words)
