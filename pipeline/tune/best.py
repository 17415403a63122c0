"""Where a search ends: the table, the winner and how far it can be trusted, its configuration, the plots."""

from __future__ import annotations

import dataclasses
import json
import logging
import statistics
import sys
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table

from infra.storage import UserError, join_url, open_storage
from pipeline.cli import ProgressLine
from pipeline.config.train import TrainConfig, train_config
from pipeline.runs.folder import BEST, CONFIG, Run
from pipeline.train.distributed import ProcessGroup
from pipeline.train.loop import train
from pipeline.tune.config import BestConfig
from pipeline.tune.folder import Home, find_search
from pipeline.tune.plots import write_report
from pipeline.tune.searcher import REASON, describe
from pipeline.tune.space import trial_url

logger = logging.getLogger(__name__)

PRESET, REPEATS = "best.json", "repeats"
LOG_WIDTH = 160
"""Of the table in a log file, characters."""
NOT_IN_PRESET = ("config", "preset", "out", "ray", "dry_run")


def conclude(config: BestConfig) -> None:
    """Print the table and the winner, train it again with other seeds if asked, write its configuration and plots."""
    home = find_search(config.search)
    trial = chosen_trial(home, config.trial)
    report_on(home)
    winner = configuration_of(home, trial)
    logger.info(f"trial {trial.number}: {psnr_db(trial):.2f} dB with seed {winner.seed}, once")
    values = [psnr_db(trial), *repeat(home, trial.number, winner, config.repeats)]
    if len(values) > 1:
        logger.info(
            f"trial {trial.number} with {len(values)} seeds: {statistics.mean(values):.2f} dB, standard deviation "
            f"{statistics.stdev(values):.2f} ({', '.join(f'{value:.2f}' for value in values)})"
        )
    text = json.dumps(preset_of(winner, home, trial), indent=1)
    home.store.put(PRESET, text.encode())
    config.out.write_text(text)
    logger.info(f"next: python -m pipeline.train --config {config.out}")


def chosen_trial(home: Home, number: int | None) -> FrozenTrial:
    """The finished trial of this number, or the one with the best PSNR. ValueError when there is none."""
    finished = [t for t in home.study().get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]
    if not finished:
        raise UserError(f"no trial of {home.store.url} has ended yet; let `pipeline.tune` run on.")
    if number is None:
        return max(finished, key=psnr_db)
    for trial in finished:
        if trial.number == number:
            return trial
    numbers = ", ".join(str(t.number) for t in finished)
    raise UserError(f"--trial {number} is no trial that ran to its end; those are {numbers}.")


def psnr_db(trial: FrozenTrial) -> float:
    """PSNR is the first objective."""
    assert trial.values
    return trial.values[0]


def configuration_of(home: Home, trial: FrozenTrial) -> TrainConfig:
    """The configuration that a trial ran with."""

    values = Run(open_storage(trial_url(home.store.url, trial.number))).read_json(CONFIG)
    assert values, "a trial's run has its configuration before it trains"
    return train_config(values)


def preset_of(winner: TrainConfig, home: Home, trial: FrozenTrial) -> dict[str, Any]:
    """What `pipeline.train --config` takes: the winner, as a run of its own."""
    values = dataclasses.asdict(winner)
    for name in NOT_IN_PRESET:
        del values[name]
    search = home.store.url.rstrip("/").rpartition("/")[2]
    return {**values, "preset": "best", "name": f"{search}-best-{trial.number}"}


def repeat(home: Home, number: int, winner: TrainConfig, repeats: int) -> list[float]:
    """Validation PSNR (dB) of the same with other seeds. Each is a run in the search's folder; a finished one stays."""

    found = []
    for seed in range(winner.seed + 1, winner.seed + 1 + repeats):
        out = join_url(home.store.url, REPEATS, f"{number:04d}-{seed}")
        config = dataclasses.replace(winner, seed=seed, out=out, name=f"seed-{seed}")
        run = Run(open_storage(out))
        run.write_json(CONFIG, dataclasses.asdict(config))
        with ProgressLine(f"seed {seed}", config.max_images, "images") as line:
            train(config, ProcessGroup.single_process(), lambda row, line=line: line.update(row["images_seen"]))  # type: ignore[misc]
        held = run.read_json(BEST)
        assert held
        found.append(held["val_psnr_db"])
    return found


def report_on(home: Home) -> None:
    """Print the table of all trials and write the plots."""
    trials = home.study().get_trials(deepcopy=False)
    table = Table("trial", "state", "PSNR dB", "images", "parameters", "images/s", "what", title=home.store.url)
    for trial in sorted(trials, key=lambda t: -t.values[0] if t.values else 0.0):
        table.add_row(*row_of(trial))
    Console(width=None if sys.stdout.isatty() else LOG_WIDTH).print(table)
    logger.info(f"plots: {write_report(home)}")


def row_of(trial: FrozenTrial) -> list[str]:
    """A trial as a line of the table."""

    attributes = trial.user_attrs
    figures = [
        f"{attributes[name]:,.0f}" if name in attributes else ""
        for name in ("images_seen", "parameters", "images_per_sec")
    ]
    what = describe(trial.params)
    if REASON in attributes:
        what += f": {attributes[REASON]}"
    state = {"COMPLETE": "finished", "PRUNED": "cut"}.get(trial.state.name, trial.state.name.lower())
    return [str(trial.number), state, f"{trial.values[0]:.2f}" if trial.values else "", *figures, what]
