"""The learning rate of a run: the schedule that its configuration names, and where in its budget a run is."""

from __future__ import annotations

from irae import schedules
from irae.schedules import BudgetSchedule, PaperSchedule, Schedule
from pipeline.config.train import TrainConfig

LEAST_PROGRESS = 1e-3
"""The first steps know of no progress yet; with a rate of 0 they would be lost."""


def make_schedule(config: TrainConfig) -> Schedule:
    """The schedule of `lr_schedule`, at the run's beginning."""
    if config.lr_schedule == "paper":
        return PaperSchedule(config.lr, config.lr_first_drop_epoch, config.lr_patience_epochs, lr_min=config.lr_min)
    if config.lr_schedule == "constant":
        return Schedule(config.lr)
    shapes = {
        "step": lambda: schedules.step(config.lr_drops, config.lr_drop_factor),
        "cosine": lambda: schedules.cosine(config.lr_end_share),
        "one-cycle": lambda: schedules.one_cycle(config.lr_rise_share),
        "wsd": lambda: schedules.warmup_stable_decay(config.lr_decay_share, config.lr_end_share),
    }
    return BudgetSchedule(config.lr, shapes[config.lr_schedule]())


def learning_rate(config: TrainConfig, schedule: Schedule, images_seen: int, budget_fraction: float) -> float:
    """Rate of the step that begins at `images_seen`; `budget_fraction`: of --max-minutes that is used up, 0 without."""
    progress = max(budget_fraction, images_seen / config.max_images if config.max_images else 0.0)
    warmup = 1.0
    if config.lr_warmup_images:
        warmup = min(1.0, (images_seen + config.global_batch_size) / config.lr_warmup_images)
    if config.lr_warmup_share:
        warmup = min(warmup, max(progress, LEAST_PROGRESS) / config.lr_warmup_share)
    return schedule.rate(progress) * warmup
