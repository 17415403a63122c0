"""The search space, and a point of it as a training configuration.

The space is conditional: a schedule's hyperparameters exist only in trials that have this schedule.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from optuna.trial import Trial

from infra.storage import join_url
from pipeline.config.train import TrainConfig
from pipeline.tune.config import QUARTERS, TuneConfig

WARMUP_SHARE_MAX = 0.2
"""Longest warm-up, as a share of a trial's budget."""
END_SHARES = (1e-3, 0.3)
"""Range of the last learning rate, as a share of the highest."""
PATIENCE_EPOCHS_MAX = 10
EMA_SHARE = 8
"""A trial is judged by the EMA of its weights over the last eighth of its images: the PSNR of the last step's weights
varies by up to 0.3 dB by chance, and the best of a dozen trials is then the luckiest."""
TRIALS = "trials"
"""Folder of the trials' runs."""


def suggest(config: TuneConfig, trial: Trial, epochs: float) -> None:
    """Draw a point for trials of `epochs` epochs. A hyperparameter that the trial already has stays as it is."""
    for name, (low, high) in (("K", config.K_range), ("L", config.L_range)):
        if config.base.system == "irae":
            trial.suggest_int(name, low, high)
    trial.suggest_float("lr", *config.lr_range, log=True)
    for name, choices in (
        ("width", config.widths),
        ("scale_min", config.scale_mins),
        ("global_batch_size", config.batches),
    ):
        if choices:
            trial.suggest_categorical(name, choices)
    schedule = trial.suggest_categorical("lr_schedule", config.lr_schedules)
    if schedule != "one-cycle":  # one-cycle has its own warm-up
        trial.suggest_float("warmup_share", 0.0, WARMUP_SHARE_MAX)
    if schedule == "paper" and epochs >= 2:
        trial.suggest_int("paper_first_drop_epoch", 1, int(epochs))
        trial.suggest_int("paper_patience_epochs", 1, min(PATIENCE_EPOCHS_MAX, int(epochs)))
    elif schedule == "step":
        trial.suggest_int("step_drops", 1, 5)
        trial.suggest_float("step_drop_factor", 2.0, 10.0, log=True)
    elif schedule == "cosine":
        trial.suggest_float("cosine_end_share", *END_SHARES, log=True)
    elif schedule == "one-cycle":
        trial.suggest_float("one-cycle_rise_share", 0.1, 0.6)
    elif schedule == "wsd":
        trial.suggest_float("wsd_decay_share", 0.1, 0.9)
        trial.suggest_float("wsd_end_share", *END_SHARES, log=True)


def base_point(config: TuneConfig) -> dict[str, Any]:
    """The base configuration's values where they lie in the space: the hyperparameters of the first trial."""
    base, is_irae = config.base, config.base.system == "irae"
    candidates = (
        ("K", base.model.K, is_irae and config.K_range[0] <= base.model.K <= config.K_range[1]),
        ("L", base.model.L, is_irae and config.L_range[0] <= base.model.L <= config.L_range[1]),
        ("lr", base.lr, config.lr_range[0] <= base.lr <= config.lr_range[1]),
        ("lr_schedule", base.lr_schedule, base.lr_schedule in config.lr_schedules),
        ("width", base.model.width, base.model.width in config.widths),
        ("scale_min", base.model.scale_min, base.model.scale_min in config.scale_mins),
        ("global_batch_size", base.global_batch_size, base.global_batch_size in config.batches),
    )
    return {name: value for name, value, is_inside in candidates if is_inside}


def trial_config(config: TuneConfig, params: dict[str, Any], number: int, search_url: str) -> TrainConfig:
    """The training configuration of a trial, an ordinary run below the search's folder."""
    base = config.base
    assert base.max_images
    model_changes = {name: params[name] for name in ("K", "L", "width", "scale_min") if name in params}
    schedule_changes = {
        f"lr_{name.partition('_')[2]}": value
        for name, value in params.items()
        if name.startswith(f"{params['lr_schedule']}_")
    }
    return dataclasses.replace(
        base,
        **schedule_changes,
        model=dataclasses.replace(base.model, **model_changes),
        lr=params["lr"],
        lr_schedule=params["lr_schedule"],
        lr_warmup_images=round(params.get("warmup_share", 0.0) * base.max_images),
        global_batch_size=params.get("global_batch_size", base.global_batch_size),
        ema_images=base.ema_images or base.max_images // EMA_SHARE,
        validate_images=base.validate_images or max(1, base.max_images // QUARTERS),
        name=f"trial-{number:04d}",
        out=trial_url(search_url, number),
    )


def trial_url(search_url: str, number: int) -> str:
    """URL of a trial's run."""
    return join_url(search_url, TRIALS, f"{number:04d}")


def describe(params: dict[str, Any]) -> str:
    """Hyperparameters in a line."""
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in params.items()
    )
