"""Learning rates as functions of the budget's used fraction, and the paper's, which depends on validation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

ONE_CYCLE_START, ONE_CYCLE_END = 1 / 25, 1e-4
"""First and last learning rate of one-cycle, as fractions of the highest."""
LEAST_PROGRESS = 1e-3
"""Smallest progress that a warm-up counts: with a learning rate of 0 the first steps would be lost."""

Shape = Callable[[float], float]
"""Progress in [0, 1] -> factor of the highest learning rate."""


def constant(progress: float) -> float:
    """1."""
    return 1.0


@dataclass
class BudgetSchedule:
    """`lr` times a shape of the budget's used fraction. Counts epochs and the best validation PSNR."""

    lr: float = 1e-3
    shape: Shape = constant
    epoch: int = field(default=0, init=False)
    best_psnr_db: float = field(default=float("-inf"), init=False)

    @property
    def finished(self) -> bool:
        """Whether training ends before the budget does."""
        return False

    def lr_at(self, progress: float) -> float:
        """Learning rate when this fraction of the budget, 0 to 1, is used up."""
        return self.lr * self.shape(min(max(progress, 0.0), 1.0))

    def end_epoch(self, psnr_db: float) -> None:
        """Count a finished epoch with this validation PSNR."""
        self.epoch += 1
        self.best_psnr_db = max(psnr_db, self.best_psnr_db)

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint (JSON values)."""
        return {"epoch": self.epoch, "best_psnr_db": None if self.epoch == 0 else self.best_psnr_db}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a checkpoint's `state_dict()`."""
        self.epoch = state["epoch"]
        self.best_psnr_db = float("-inf") if state["best_psnr_db"] is None else state["best_psnr_db"]


@dataclass
class PaperSchedule(BudgetSchedule):
    """The paper's: 1e-3; 2e-4 after 50 epochs; then /5 after 10 epochs without better PSNR; ends below 1e-6.

    The 10 epochs are counted from the 50th, and again from each drop, against the best PSNR of the whole run. Depends
    on no budget.
    """

    first_drop_epoch: int = 50
    patience_epochs: int = 10
    factor: float = 5.0
    lr_min: float = 1e-6
    epochs_without_gain: int = field(default=0, init=False)

    @property
    def finished(self) -> bool:
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

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "lr": self.lr, "without_gain": self.epochs_without_gain}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.lr, self.epochs_without_gain = state["lr"], state["without_gain"]


def linear_warmup(progress: float, warmup_share: float) -> float:
    """Factor of the learning rate that rises to 1 over the first `warmup_share` of the budget; 1 for a share of 0."""
    return min(1.0, max(progress, LEAST_PROGRESS) / warmup_share) if warmup_share else 1.0


def step(drops: int, factor: float) -> Shape:
    """Divided by `factor` at `drops` points that cut the budget into equal parts."""
    return lambda progress: factor ** -min(int(progress * (drops + 1)), drops)


def cosine(end_share: float) -> Shape:
    """Half a cosine from 1 down to `end_share` (Loshchilov & Hutter 2017, without restarts)."""
    return lambda progress: _half_cosine(1.0, end_share, progress)


def one_cycle(rise_share: float) -> Shape:
    """Up along half a cosine for `rise_share` of the budget, then down to almost 0 (Smith & Topin 2018)."""

    def shape(progress: float) -> float:
        if progress < rise_share:
            return _half_cosine(ONE_CYCLE_START, 1.0, progress / rise_share)
        return _half_cosine(1.0, ONE_CYCLE_END, (progress - rise_share) / (1 - rise_share))

    return shape


def warmup_stable_decay(decay_share: float, end_share: float) -> Shape:
    """1, then linear over the last `decay_share` of the budget down to `end_share` (Hu et al. 2024)."""
    return lambda progress: 1 + (end_share - 1) * max(0.0, (progress - (1 - decay_share)) / decay_share)


def _half_cosine(first: float, last: float, progress: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2
