"""Learning rate of a run: its schedule over its budget, with warm-up."""

from __future__ import annotations

from irae import schedules
from irae.schedules import BudgetSchedule, PaperSchedule, Schedule
from pipeline.config.train import TrainConfig

LEAST_PROGRESS = 1e-3
"""Least progress that the warm-up counts with: at a rate of 0 the first steps would be lost."""


def make_schedule(config: TrainConfig) -> Schedule:
    """The schedule of `lr_schedule`, at its start."""
    lr, options = config.optimization.lr, config.schedule
    if options.lr_schedule == "paper":
        return PaperSchedule(lr, options.lr_first_drop_epoch, options.lr_patience_epochs, lr_min=options.lr_min)
    if options.lr_schedule == "constant":
        return Schedule(lr)
    shapes = {
        "step": lambda: schedules.step(options.lr_drops, options.lr_drop_factor),
        "cosine": lambda: schedules.cosine(options.lr_end_share),
        "one-cycle": lambda: schedules.one_cycle(options.lr_rise_share),
        "wsd": lambda: schedules.warmup_stable_decay(options.lr_decay_share, options.lr_end_share),
    }
    return BudgetSchedule(lr, shapes[options.lr_schedule]())


def learning_rate(config: TrainConfig, schedule: Schedule, images_seen: int, budget_fraction: float) -> float:
    """Rate of the step after `images_seen` images; `budget_fraction`: used share of --max-minutes, 0 without."""
    options, max_images = config.schedule, config.budget.max_images
    progress = max(budget_fraction, images_seen / max_images if max_images else 0.0)
    warmup = 1.0
    if options.lr_warmup_images:
        warmup = min(1.0, (images_seen + config.optimization.global_batch_size) / options.lr_warmup_images)
    if options.lr_warmup_share:
        warmup = min(warmup, max(progress, LEAST_PROGRESS) / options.lr_warmup_share)
    return schedule.rate(progress) * warmup
