"""Time of a training: budget, intervals of events, rates. Rank 0 decides everything that depends on it."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.config.train import BudgetConfig

LOG_INTERVAL_S = 2.0


class BudgetTimer:
    """Training time over all restarts (`train_s`), by the budget's clock."""

    def __init__(self, budget: BudgetConfig, checkpoint_minutes: float = math.inf) -> None:
        self.budget, self.checkpoint_minutes = budget, checkpoint_minutes
        self.train_s = 0.0
        self._budget_now = time.process_time if budget.budget_clock == "processor" else time.monotonic
        self.start()
        self._images, self._loss_sum, self._steps, self._wait_s = 0, 0.0, 0, 0.0

    def start(self) -> None:
        """Training starts, or resumes, now."""
        self._logged_at = self._saved_at = time.monotonic()
        self._last = self._budget_now()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time inside counts as waiting for data."""
        begin = time.monotonic()
        yield
        self._wait_s += time.monotonic() - begin

    @contextmanager
    def excluded(self) -> Iterator[None]:
        """Time inside, a validation or a checkpoint, is not taken from the budget."""
        begin = self._budget_now()
        yield
        self._last += self._budget_now() - begin

    def count(self, images: int, loss: float) -> None:
        """Count a step."""
        now = self._budget_now()
        self.train_s += now - self._last
        self._last = now
        self._images += images
        self._steps += 1
        self._loss_sum += loss

    def due_events(self) -> list[str]:
        """Flags that rank 0 sends with the next step: log, checkpoint, stop."""
        now = time.monotonic()
        due = {
            "log": now - self._logged_at >= LOG_INTERVAL_S,
            "checkpoint": now - self._saved_at >= 60 * self.checkpoint_minutes,
            "stop": self.train_s >= 60 * (self.budget.max_minutes or math.inf),
        }
        return [name for name, is_due in due.items() if is_due]

    @property
    def budget_fraction(self) -> float:
        """Used share of --max-minutes; 0 without."""
        return self.train_s / (60 * self.budget.max_minutes) if self.budget.max_minutes else 0.0

    def checkpoint_done(self) -> None:
        self._saved_at = time.monotonic()

    def rates(self, workers: int) -> dict[str, float]:
        """Rates of all `workers` since the last call, and the training time and peak memory so far."""
        elapsed_s = max(time.monotonic() - self._logged_at, 1e-9)
        row = {
            "train_s": self.train_s,
            "loss": self._loss_sum / max(self._steps, 1),
            "images_per_sec": self._images / elapsed_s,
            "images_per_sec_per_worker": self._images / elapsed_s / workers,
            "data_wait_share": self._wait_s / elapsed_s,
            "peak_memory_mb": peak_memory_mb(),
        }
        self._logged_at = time.monotonic()
        self._images, self._loss_sum, self._steps, self._wait_s = 0, 0.0, 0, 0.0
        return row


def peak_memory_mb() -> float:
    """Largest resident size of this process so far (macOS counts bytes, Linux KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
