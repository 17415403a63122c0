"""The paper's learning rate, epoch by epoch."""

from __future__ import annotations

import json

import pytest

from irae.schedules import PaperSchedule


def test_without_any_gain_after_the_first_epoch() -> None:
    schedule, rates = PaperSchedule(), []
    while not schedule.finished:
        rates.append(schedule.lr)
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
def test_resumes_from_its_state(cut: int) -> None:
    psnrs = [30 + ((7 * i) % 11) / 10 for i in range(100)]
    whole, first, second = PaperSchedule(), PaperSchedule(), PaperSchedule(lr=0.5)
    for psnr in psnrs:
        whole.end_epoch(psnr)
    for psnr in psnrs[:cut]:
        first.end_epoch(psnr)
    second.load_state(json.loads(json.dumps(first.state())))
    for psnr in psnrs[cut:]:
        second.end_epoch(psnr)
    assert second == whole
