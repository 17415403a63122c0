"""Learning rates: the paper's, epoch by epoch; the others over the budget; the warm-up."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from irae import schedules
from irae.schedules import BudgetSchedule, PaperSchedule, Shape, linear_warmup


def test_without_any_gain_after_the_first_epoch() -> None:
    schedule, rates = PaperSchedule(), []
    while not schedule.finished:
        rates.append(schedule.lr_at(0.5))
        schedule.end_epoch(30.0)
    assert rates[:50] == [1e-3] * 50
    assert rates[50:60] == [pytest.approx(2e-4)] * 10
    assert rates[60:70] == [pytest.approx(4e-5)] * 10
    assert rates[70:80] == [pytest.approx(8e-6)] * 10
    assert rates[80:] == [pytest.approx(1.6e-6)] * 10, "the next would be 3.2e-7, below 1e-6"


def test_gain_keeps_the_rate_and_restarts_the_count() -> None:
    schedule = PaperSchedule()
    for epoch in range(200):
        schedule.end_epoch(30 + epoch * 0.01)
    assert schedule.lr == pytest.approx(2e-4)
    for _ in range(9):
        schedule.end_epoch(0.0)
    schedule.end_epoch(99.0)
    for _ in range(9):
        schedule.end_epoch(98.0)
    assert schedule.lr == pytest.approx(2e-4)
    schedule.end_epoch(98.0)
    assert schedule.lr == pytest.approx(4e-5)


@pytest.mark.parametrize("cut", [0, 1, 49, 50, 57, 75])
def test_resumes_from_its_state_dict(cut: int) -> None:
    psnrs = [30 + ((7 * i) % 11) / 10 for i in range(100)]
    whole, first, second = PaperSchedule(), PaperSchedule(), PaperSchedule(lr=0.5)
    for psnr in psnrs:
        whole.end_epoch(psnr)
    for psnr in psnrs[:cut]:
        first.end_epoch(psnr)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for psnr in psnrs[cut:]:
        second.end_epoch(psnr)
    assert second == whole


def rates(shape: Shape) -> list[float]:
    """At -10 % to 120 % of the budget, in steps of 1 %."""
    schedule = BudgetSchedule(2.0, shape)
    return [schedule.lr_at(percent / 100) for percent in range(-10, 121)]


@pytest.mark.parametrize(
    ("shape", "points"),
    [
        (schedules.constant, {0: 2.0, 50: 2.0, 100: 2.0}),
        (schedules.step(3, 5.0), {0: 2.0, 24: 2.0, 25: 0.4, 50: 0.08, 75: 0.016, 100: 0.016}),
        (schedules.cosine(0.01), {0: 2.0, 50: 1.01, 100: 0.02}),
        (schedules.one_cycle(0.3), {0: 0.08, 15: 1.04, 30: 2.0, 65: 1.0001, 100: 2e-4}),
        (schedules.warmup_stable_decay(0.2, 0.1), {0: 2.0, 80: 2.0, 90: 1.1, 100: 0.2}),
    ],
)
def test_lr_over_a_budget(shape: Shape, points: dict[int, float]) -> None:
    """At the ends of the budget and at marked points between; outside it is that of the nearest end."""
    found = rates(shape)
    assert {percent: found[percent + 10] for percent in points} == pytest.approx(points)
    assert len(set(found[:11])) == 1 and len(set(found[-21:])) == 1
    assert max(found) == pytest.approx(2.0) and min(found) > 0


def test_one_cycle_rises_then_falls_and_the_others_only_fall() -> None:
    up_down = rates(schedules.one_cycle(0.25))
    assert up_down[10:36] == sorted(up_down[10:36]) and up_down[36:] == sorted(up_down[36:], reverse=True)
    for shape in (schedules.step(2, 3.0), schedules.cosine(0.1), schedules.warmup_stable_decay(0.5, 0.01)):
        assert rates(shape) == sorted(rates(shape), reverse=True)


def test_a_budget_schedule_depends_on_no_epoch() -> None:
    schedule = BudgetSchedule(2.0, schedules.cosine(0.01))
    before = [schedule.lr_at(percent / 100) for percent in range(101)]
    for _ in range(70):
        schedule.end_epoch(30.0)
    assert not schedule.finished and before == [schedule.lr_at(percent / 100) for percent in range(101)]


@given(st.floats(0, 1), st.floats(0.01, 1, exclude_max=True))
def test_warmup_is_linear_over_its_share_of_the_budget(progress: float, share: float) -> None:
    factor = linear_warmup(progress, share)
    assert factor == (1 if progress >= share else pytest.approx(max(progress, schedules.LEAST_PROGRESS) / share))
    assert 0 < factor <= 1, "the first steps count too"
    assert linear_warmup(progress, 0.0) == 1
