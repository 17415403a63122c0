"""The best trial of a search: the table of all trials, its configuration, its PSNR with other seeds, the plots."""

from __future__ import annotations

import dataclasses
import json
import logging
import statistics
import sys

from optuna.trial import FrozenTrial
from rich.console import Console
from rich.table import Table

from infra.storage import UserError, join_url, open_storage
from pipeline.cli import ProgressLine
from pipeline.config.train import TrainConfig, train_config
from pipeline.runs.folder import CONFIG, Run
from pipeline.train.distributed import ProcessGroup
from pipeline.train.loop import train
from pipeline.tune.config import BestConfig
from pipeline.tune.folder import REASON, StudyFolder, find_search, state_text
from pipeline.tune.plots import finished, psnr_db, write_plots
from pipeline.tune.space import describe, trial_url

logger = logging.getLogger(__name__)

PRESET, REPEATS = "best.json", "repeats"
LOG_WIDTH = 160
"""Width of the table in a log file, characters."""


def write_best(config: BestConfig) -> None:
    """Show all trials; write the best one's configuration, after training it with other seeds if asked."""
    folder = find_search(config.search)
    trial = chosen_trial(folder, config.trial)
    show_trials(folder)
    values = Run(open_storage(trial_url(folder.store.url, trial.number))).read_json(CONFIG)
    assert values, "a trial's run has its configuration before it trains"
    best = train_config(values)
    logger.info(f"trial {trial.number}: {psnr_db(trial):.2f} dB with seed {best.seed}, once")
    psnrs = [psnr_db(trial), *psnr_with_other_seeds(folder, trial.number, best, config.repeats)]
    if len(psnrs) > 1:
        logger.info(
            f"trial {trial.number} with {len(psnrs)} seeds: {statistics.mean(psnrs):.2f} dB, standard deviation "
            f"{statistics.stdev(psnrs):.2f} ({', '.join(f'{psnr:.2f}' for psnr in psnrs)})"
        )
    name = f"{folder.store.url.rstrip('/').rpartition('/')[2]}-best-{trial.number}"
    preset = best.with_options(config=None, preset="best", name=name, out=None, ray=True, dry_run=False)
    text = json.dumps(dataclasses.asdict(preset), indent=1)
    folder.store.put(PRESET, text.encode())
    config.out.write_text(text)
    logger.info(f"next: python -m pipeline.train --config {config.out}")


def chosen_trial(folder: StudyFolder, number: int | None) -> FrozenTrial:
    """The finished trial of this number, or the one with the best PSNR. Raises UserError when there is none."""
    trials = {trial.number: trial for trial in finished(folder.study())}
    if not trials:
        raise UserError(f"no trial of {folder.store.url} has finished yet; let `pipeline.tune` run on.")
    if number is None:
        return max(trials.values(), key=psnr_db)
    if number not in trials:
        raise UserError(f"--trial {number} is no finished trial; those are {', '.join(map(str, trials))}.")
    return trials[number]


def psnr_with_other_seeds(folder: StudyFolder, number: int, best: TrainConfig, repeats: int) -> list[float]:
    """Validation PSNR (dB) of the same configuration with other seeds, each a run in the search's folder.

    A run that exists is resumed, a finished one is kept.
    """
    values = []
    for seed in range(best.seed + 1, best.seed + 1 + repeats):
        out = join_url(folder.store.url, REPEATS, f"{number:04d}-{seed}")
        config = best.with_options(seed=seed, out=out, name=f"seed-{seed}")
        run = Run(open_storage(out))
        run.write_json(CONFIG, dataclasses.asdict(config))
        with ProgressLine(f"seed {seed}", config.budget.max_images, "images") as line:
            train(config, ProcessGroup.single_process(), lambda row, line=line: line.update(row["images_seen"]))  # type: ignore[misc]
        best_checkpoint = run.checkpoints.best()
        assert best_checkpoint
        values.append(best_checkpoint["val_psnr_db"])
    return values


def show_trials(folder: StudyFolder) -> None:
    """Print the table of all trials and write the plots."""
    table = Table("trial", "state", "PSNR dB", "images", "parameters", "images/s", "hyperparameters")
    table.title = folder.store.url
    trials = folder.study().get_trials(deepcopy=False)
    for trial in sorted(trials, key=lambda trial: -trial.values[0] if trial.values else 0.0):
        measured = trial.user_attrs
        value = f"{trial.values[0]:.2f}" if trial.values else ""
        names = ("images_seen", "parameters", "images_per_sec")
        figures = [f"{measured[name]:,.0f}" if name in measured else "" for name in names]
        reason = f": {measured[REASON]}" if REASON in measured else ""
        table.add_row(str(trial.number), state_text(trial.state), value, *figures, describe(trial.params) + reason)
    Console(width=None if sys.stdout.isatty() else LOG_WIDTH).print(table)
    logger.info(f"plots: {write_plots(folder)}")
