"""Commands that repeat a run, with every option that is not a default."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from pipeline.config.presets import PRESETS
from pipeline.config.train import TrainConfig
from pipeline.report.load import RunFacts
from pipeline.runs.evaluations import Evaluation

NOT_REPEATED = {"config", "preset", "data", "name", "out", "dry_run"}
"""Options that are given in another way, or are no part of a run."""


def commands(run: RunFacts) -> list[str]:
    """Train the same under another name and evaluate that; empty when this version cannot read the configuration."""
    if run.config is None:
        return []
    name = f"{run.name}-again"
    evaluations = [evaluate_command(run, evaluation, name) for evaluation in run.evaluations]
    evaluations = evaluations or [f"python -m pipeline.evaluate --run {shlex.quote(name)}"]
    return [train_command(run.config, name), *evaluations]


def train_command(config: TrainConfig, name: str) -> str:
    """`python -m pipeline.train` with the options in which the configuration differs from its preset."""
    preset = config.preset if config.preset in PRESETS else "standard"
    defaults = PRESETS[preset].options()
    words = ["python", "-m", "pipeline.train", "--preset", preset, "--data", str(config.data.url), "--name", name]
    for option, value in config.options().items():
        if option not in NOT_REPEATED and value != defaults[option]:
            words += option_words(option, value)
    return shlex.join(words)


def option_words(name: str, value: Any) -> list[str]:
    """The option on a command line: --lr 0.001, --no-ray."""
    dashed = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{dashed}" if value else f"--no-{dashed}"]
    return [f"--{dashed}", str(value)]


def evaluate_command(run: RunFacts, evaluation: Evaluation, name: str, keep: Sequence[str] = ()) -> str:
    """`python -m pipeline.evaluate` of the run (name or URL) as it was evaluated; keep: keys of more examples."""
    metrics = evaluation.metrics
    words = ["python", "-m", "pipeline.evaluate", "--run", name]
    for option, key, default in (
        ("data", "data", run.options.get("data")),
        ("split", "split", "test"),
        ("protocol", "protocol", "standard"),
        ("sigma_255", "sigma_255", run.options.get("sigma_255")),
        ("seed", "noise_seed", 0),
    ):
        if metrics.get(key) not in (None, default):
            words += option_words(option, metrics[key])
    return shlex.join([*words, *(["--keep", *keep] if keep else [])])
