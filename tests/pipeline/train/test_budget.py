"""The timer of the budget, by a clock that the tests set."""

from __future__ import annotations

import math
import time
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.train import BudgetConfig
from pipeline.train.budget import LOG_INTERVAL_S, BudgetTimer

DURATIONS_S = st.floats(0, 100)
Clock = Literal["wall", "processor"]


class Clocks:
    """Wall time and processor time, which pass apart from each other."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now_s = {"wall": 1000.0, "processor": 5.0}
        patch.setattr(time, "monotonic", lambda: self.now_s["wall"])
        patch.setattr(time, "process_time", lambda: self.now_s["processor"])

    def add(self, seconds: float, *names: Clock) -> None:
        for name in names or ("wall", "processor"):
            self.now_s[name] += seconds


@pytest.mark.parametrize("clock", ["wall", "processor"])
@given(st.lists(st.tuples(st.sampled_from(["step", "excluded", "other clock"]), DURATIONS_S), max_size=20))
def test_steps_alone_are_counted(clock: Clock, periods: list[tuple[str, float]]) -> None:
    """Of the budget's own clock, without validations and checkpoints, whatever their order."""
    other: Clock = "processor" if clock == "wall" else "wall"
    with pytest.MonkeyPatch.context() as patch:
        clocks = Clocks(patch)
        timer = BudgetTimer(BudgetConfig(max_minutes=10.0, budget_clock=clock))
        clocks.add(7.0)  # making the loader, before training starts
        timer.start()
        for kind, seconds in periods:
            if kind == "excluded":
                with timer.excluded():
                    clocks.add(seconds)
            else:
                clocks.add(seconds, clock if kind == "step" else other)
                timer.count(images=4, loss=1.0)
        expected_s = sum(seconds for kind, seconds in periods if kind == "step")
        assert timer.train_s == pytest.approx(expected_s, abs=1e-9)
        assert timer.budget_fraction == pytest.approx(expected_s / 600, abs=1e-12)
        assert ("stop" in timer.due_events()) == (timer.train_s >= 600)


def test_a_restart_counts_on(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = Clocks(monkeypatch)
    timer = BudgetTimer(BudgetConfig(max_minutes=2.0))
    timer.train_s = 90.0  # of the checkpoint
    timer.start()
    clocks.add(29.0)
    timer.count(4, 1.0)
    assert timer.budget_fraction == pytest.approx(119 / 120) and "stop" not in timer.due_events()
    clocks.add(1.0)
    timer.count(4, 1.0)
    assert timer.budget_fraction == pytest.approx(1.0) and "stop" in timer.due_events()


def test_without_a_budget_of_time_nothing_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = Clocks(monkeypatch)
    timer = BudgetTimer(BudgetConfig(max_images=100))
    clocks.add(1e9)
    timer.count(4, 1.0)
    assert timer.budget_fraction == 0.0
    assert timer.due_events() == ["log"] and timer.checkpoint_minutes == math.inf


def test_log_and_checkpoint_are_due_at_their_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """By wall time, also while the budget's clock stands: on a machine that waits for its data."""
    clocks = Clocks(monkeypatch)
    timer = BudgetTimer(BudgetConfig(max_minutes=1.0, budget_clock="processor"), checkpoint_minutes=0.5)
    assert timer.due_events() == []
    clocks.add(LOG_INTERVAL_S, "wall")
    assert timer.due_events() == ["log"]
    timer.rates(workers=1)
    assert timer.due_events() == []
    clocks.add(30.0 - LOG_INTERVAL_S, "wall")
    assert timer.due_events() == ["log", "checkpoint"]
    timer.checkpoint_done()
    assert timer.due_events() == ["log"]


def test_rates_of_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = Clocks(monkeypatch)
    timer = BudgetTimer(BudgetConfig(max_minutes=1.0))
    for loss in (1.0, 2.0):
        with timer.waiting():
            clocks.add(1.0)
        clocks.add(3.0)
        timer.count(images=40, loss=loss)
    row = timer.rates(workers=4)
    assert row.pop("peak_memory_mb") > 1
    assert row == pytest.approx(
        {"train_s": 8.0, "loss": 1.5, "images_per_sec": 10.0, "images_per_sec_per_worker": 2.5, "data_wait_share": 0.25}
    )
    clocks.add(2.0)
    timer.count(images=2, loss=0.5)
    assert timer.rates(workers=1).items() >= {"images_per_sec": 1.0, "loss": 0.5, "data_wait_share": 0.0}.items()
