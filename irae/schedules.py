"""Learning rates over a run.

A schedule is asked for the rate at a point of the run (the share of its budget that is used up) and told each epoch's
validation PSNR. It is a plain value: what a checkpoint keeps of it brings it back.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

ONE_CYCLE_START, ONE_CYCLE_END = 1 / 25, 1e-4
"""Shares of the highest rate at which one-cycle begins and ends."""


@dataclass
class Schedule:
    """Counts epochs and the best validation PSNR; the rate stays as it is."""

    lr: float = 1e-3
    epoch: int = field(default=0, init=False)
    best_psnr_db: float = field(default=float("-inf"), init=False)

    @property
    def finished(self) -> bool:
        """Training ends, whatever is left of the budget."""
        return False

    def rate(self, progress: float) -> float:
        """Learning rate when this share of the budget, 0 to 1, is used up."""
        return self.lr

    def end_epoch(self, psnr_db: float) -> None:
        """Count an epoch that ended with this validation PSNR."""
        self.epoch += 1
        self.best_psnr_db = max(psnr_db, self.best_psnr_db)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps (JSON values)."""
        return {"epoch": self.epoch, "best_psnr_db": None if self.epoch == 0 else self.best_psnr_db}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's `state()`."""
        self.epoch = state["epoch"]
        self.best_psnr_db = float("-inf") if state["best_psnr_db"] is None else state["best_psnr_db"]


@dataclass
class PaperSchedule(Schedule):
    """The paper's: 1e-3; 2e-4 after 50 epochs; then /5 after 10 epochs without better PSNR; ends below 1e-6.

    "From then on": the 10 epochs are counted from the 50th, and again from each drop of the rate, against the best
    PSNR of the whole run. It knows no budget.
    """

    first_drop_epoch: int = 50
    patience_epochs: int = 10
    factor: float = 5.0
    lr_min: float = 1e-6
    epochs_without_gain: int = field(default=0, init=False)

    @property
    def finished(self) -> bool:
        """The rate fell below its minimum."""
        return self.lr < self.lr_min

    def end_epoch(self, psnr_db: float) -> None:
        improved = psnr_db > self.best_psnr_db
        super().end_epoch(psnr_db)
        if self.epoch < self.first_drop_epoch:
            return
        self.epochs_without_gain = 0 if improved else self.epochs_without_gain + 1
        if self.epoch == self.first_drop_epoch or self.epochs_without_gain >= self.patience_epochs:
            self.lr /= self.factor
            self.epochs_without_gain = 0

    def state(self) -> dict[str, Any]:
        return {**super().state(), "lr": self.lr, "without_gain": self.epochs_without_gain}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.lr, self.epochs_without_gain = state["lr"], state["without_gain"]


@dataclass
class BudgetSchedule(Schedule):
    """A rate that is a function of the budget's share alone: `lr` times `shape(progress)`."""

    shape: Callable[[float], float] = lambda progress: 1.0

    def rate(self, progress: float) -> float:
        return self.lr * self.shape(min(max(progress, 0.0), 1.0))


def step(drops: int, factor: float) -> Callable[[float], float]:
    """Divided by `factor` at `drops` points that cut the budget into equal parts."""
    return lambda progress: factor ** -min(int(progress * (drops + 1)), drops)


def cosine(end_share: float) -> Callable[[float], float]:
    """Half a cosine from 1 down to `end_share` (Loshchilov & Hutter 2017, without restarts)."""
    return lambda progress: end_share + (1 - end_share) * (1 + math.cos(math.pi * progress)) / 2


def one_cycle(rise_share: float) -> Callable[[float], float]:
    """Up along half a cosine for `rise_share` of the budget, then down to almost nothing (Smith & Topin 2018)."""

    def shape(progress: float) -> float:
        if progress < rise_share:
            begin, end, part = ONE_CYCLE_START, 1.0, progress / rise_share
        else:
            begin, end, part = 1.0, ONE_CYCLE_END, (progress - rise_share) / (1 - rise_share)
        return end + (begin - end) * (1 + math.cos(math.pi * part)) / 2

    return shape


def warmup_stable_decay(decay_share: float, end_share: float) -> Callable[[float], float]:
    """1, and over the last `decay_share` of the budget straight down to `end_share` (Hu et al. 2024)."""

    def shape(progress: float) -> float:
        part = max(0.0, (progress - (1 - decay_share)) / decay_share)
        return 1 + (end_share - 1) * part

    return shape
