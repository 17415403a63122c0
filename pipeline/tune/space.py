"""The search space, and a point of it as a training configuration.

The space is conditional: a schedule's hyperparameters exist only in trials that have this schedule.
"""

from __future__ import annotations

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


def ranges(config: TuneConfig) -> dict[str, tuple[int, int]]:
    """Ranges of the integer hyperparameters."""
    return {"K": config.K_range, "L": config.L_range} if config.is_irae else {}


def choices(config: TuneConfig) -> dict[str, tuple[Any, ...]]:
    """Values of the categorical hyperparameters that vary, without the schedule."""
    values = {"width": config.widths, "scale_min": config.scale_mins, "global_batch_size": config.batches}
    return {name: chosen for name, chosen in values.items() if chosen}


def suggest(config: TuneConfig, trial: Trial, epochs: float) -> None:
    """Draw a point for trials of `epochs` epochs. A hyperparameter that the trial already has stays as it is."""
    for name, (low, high) in ranges(config).items():
        trial.suggest_int(name, low, high)
    trial.suggest_float("lr", *config.lr_range, log=True)
    for name, values in choices(config).items():
        trial.suggest_categorical(name, values)
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
    options = config.base.options()
    bounds = {**ranges(config), "lr": config.lr_range}
    allowed = {**choices(config), "lr_schedule": config.lr_schedules}
    return {
        **{name: options[name] for name, (low, high) in bounds.items() if low <= options[name] <= high},
        **{name: options[name] for name, values in allowed.items() if options[name] in values},
    }


def trial_config(config: TuneConfig, params: dict[str, Any], number: int, search_url: str) -> TrainConfig:
    """The training configuration of a trial, an ordinary run below the search's folder."""
    base, schedule = config.base, params["lr_schedule"]
    names = ("lr", "lr_schedule", *ranges(config), *choices(config))
    return base.with_options(
        **{name: params[name] for name in names},
        **{name.replace(schedule, "lr", 1): params[name] for name in params if name.startswith(f"{schedule}_")},
        lr_warmup_images=round(params.get("warmup_share", 0.0) * config.trial_images),
        ema_images=base.optimization.ema_images or config.trial_images // EMA_SHARE,
        validate_images=base.checkpointing.validate_images or max(1, config.trial_images // QUARTERS),
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
