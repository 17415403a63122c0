"""Learning rates over a run. A schedule is told each epoch's validation PSNR and answers with the next epoch's rate."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class PaperSchedule:
    """The paper's: 1e-3; 2e-4 after 50 epochs; then /5 after 10 epochs without better PSNR; ends below 1e-6.

    "From then on": the 10 epochs are counted from the 50th, and again from each drop of the rate, against the best
    PSNR of the whole run.
    """

    lr: float = 1e-3
    first_drop_epoch: int = 50
    patience_epochs: int = 10
    factor: float = 5.0
    lr_min: float = 1e-6
    epoch: int = field(default=0, init=False)
    best_psnr_db: float = field(default=float("-inf"), init=False)
    epochs_without_gain: int = field(default=0, init=False)

    @property
    def finished(self) -> bool:
        """The rate fell below its minimum: training ends."""
        return self.lr < self.lr_min

    def end_epoch(self, psnr_db: float) -> None:
        """Count an epoch that ended with this validation PSNR."""
        self.epoch += 1
        improved = psnr_db > self.best_psnr_db
        self.best_psnr_db = max(psnr_db, self.best_psnr_db)
        if self.epoch < self.first_drop_epoch:
            return
        self.epochs_without_gain = 0 if improved else self.epochs_without_gain + 1
        if self.epoch == self.first_drop_epoch or self.epochs_without_gain >= self.patience_epochs:
            self.lr /= self.factor
            self.epochs_without_gain = 0

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps (JSON values)."""
        best = None if self.epoch == 0 else self.best_psnr_db
        return {"lr": self.lr, "epoch": self.epoch, "best_psnr_db": best, "without_gain": self.epochs_without_gain}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's `state()`."""
        self.lr, self.epoch, self.epochs_without_gain = state["lr"], state["epoch"], state["without_gain"]
        self.best_psnr_db = float("-inf") if state["best_psnr_db"] is None else state["best_psnr_db"]
