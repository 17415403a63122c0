"""Learning rate of a run: its schedule over its budget, with warm-up."""

from __future__ import annotations

from irae import schedules
from irae.schedules import BudgetSchedule, PaperSchedule, linear_warmup
from pipeline.config.train import TrainConfig


def make_schedule(config: TrainConfig) -> BudgetSchedule:
    """The schedule of `lr_schedule`, at its start."""
    lr, options = config.optimization.lr, config.schedule
    if options.lr_schedule == "paper":
        return PaperSchedule(
            lr,
            first_drop_epoch=options.lr_first_drop_epoch,
            patience_epochs=options.lr_patience_epochs,
            lr_min=options.lr_min,
        )
    shapes = {
        "constant": lambda: schedules.constant,
        "step": lambda: schedules.step(options.lr_drops, options.lr_drop_factor),
        "cosine": lambda: schedules.cosine(options.lr_end_share),
        "one-cycle": lambda: schedules.one_cycle(options.lr_rise_share),
        "wsd": lambda: schedules.warmup_stable_decay(options.lr_decay_share, options.lr_end_share),
    }
    return BudgetSchedule(lr, shapes[options.lr_schedule]())


def learning_rate(config: TrainConfig, schedule: BudgetSchedule, images_seen: int, budget_fraction: float) -> float:
    """Rate of the step after `images_seen` images; `budget_fraction`: used share of --max-minutes, 0 without."""
    options, max_images = config.schedule, config.budget.max_images
    progress = max(budget_fraction, images_seen / max_images if max_images else 0.0)
    warmup = linear_warmup(progress, options.lr_warmup_share)
    if options.lr_warmup_images:
        warmup = min(warmup, (images_seen + config.optimization.global_batch_size) / options.lr_warmup_images)
    return schedule.lr_at(progress) * warmup
