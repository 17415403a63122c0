"""The recipe of all published results: a cosine over the budget, 5 % warm-up, an EMA of 5 % of the images so far."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.config.train import TrainConfig
from pipeline.reproduce.experiments import RECIPE
from pipeline.runs.load import load_trained
from pipeline.train.prepare import Training, reserve_run
from pipeline.train.schedule import learning_rate, make_schedule
from tests.support.training import BATCH, config_for, trainer_for

LR, IMAGES = 3e-3, 100_000
EVERY_LR_SCHEDULE = ("paper", "constant", "step", "cosine", "one-cycle", "wsd")


def config_of(**changes: Any) -> TrainConfig:
    return TrainConfig().with_options(lr=LR, global_batch_size=16, **RECIPE | changes)


def lr_at(config: TrainConfig, images_seen: int, budget_fraction: float = 0.0) -> float:
    return learning_rate(config, make_schedule(config), images_seen, budget_fraction)


def test_shares_of_the_recipe() -> None:
    options = config_of().options()
    assert options["lr_schedule"] == "cosine" and options["lr_end_share"] == 0.01
    assert options["lr_warmup_share"] == options["ema_share"] == 0.05


@given(st.floats(0, 1))
@example(0.0)
@example(0.05)
@example(1.0)
def test_cosine_times_linear_warmup(progress: float) -> None:
    """The closed form, the same for both budgets; the first step counts as a thousandth of the budget."""
    images_seen = round(progress * IMAGES)
    expected = LR * (0.01 + 0.99 * (1 + math.cos(math.pi * images_seen / IMAGES)) / 2)
    expected *= min(1.0, max(images_seen / IMAGES, 1e-3) / 0.05)
    assert lr_at(config_of(max_images=IMAGES), images_seen) == pytest.approx(expected, rel=1e-12)
    by_time = config_of(max_minutes=5.0)
    assert lr_at(by_time, 123, images_seen / IMAGES) == pytest.approx(expected, rel=1e-12)


@given(st.floats(0, 1), st.floats(0, 1))
def test_of_two_budgets_the_one_used_more_counts(by_images: float, by_time: float) -> None:
    both, images_seen = config_of(max_images=IMAGES, max_minutes=5.0), round(by_images * IMAGES)
    assert lr_at(both, images_seen, by_time) == lr_at(config_of(max_minutes=5.0), 0, max(by_time, images_seen / IMAGES))


@pytest.mark.parametrize("name", EVERY_LR_SCHEDULE)
def test_warmup_images_multiply_every_schedule(name: str) -> None:
    """Linear over the first images, from one step's share at the first step; no change after them."""
    options = {"lr_schedule": name, "lr_warmup_share": 0.0, "max_images": IMAGES, "validate_at": "epochs"}
    config, warm = config_of(**options), config_of(**options, lr_warmup_images=1600)
    for images_seen in (0, 16, 784, 1584, 1600, 50_000, IMAGES):
        share = min(1.0, (images_seen + 16) / 1600)
        assert lr_at(warm, images_seen) == pytest.approx(share * lr_at(config, images_seen), rel=1e-12)


def recorded(config: TrainConfig) -> tuple[list[float], list[dict[str, torch.Tensor]]]:
    """Learning rate of each step of a training, and the weights after it."""
    reserve_run(Training.open(config))
    trainer, rates, weights = trainer_for(config), list[float](), list[dict[str, torch.Tensor]]()

    def record(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        rates.append(optimizer.param_groups[0]["lr"])
        weights.append({name: p.detach().double().clone() for name, p in trainer.model.named_parameters()})

    trainer.optimizer.register_step_post_hook(record)
    trainer.train()
    return rates, weights


def test_a_training_steps_with_the_rates_and_keeps_the_average(data: str, tmp_path: Path) -> None:
    """With shares at which 20 steps see the warm-up, the even average of the first steps and the decay after them."""
    shares = {"lr_warmup_share": 0.25, "ema_share": 0.9}
    config = config_for(data, tmp_path / "run", lr=LR, **RECIPE | shares)
    rates, weights = recorded(config)
    assert rates == [lr_at(config, step * BATCH) for step in range(20)]
    assert rates[:6] == sorted(rates[:6]) and rates[5:] == sorted(rates[5:], reverse=True)
    average = weights[0]
    for step, current in enumerate(weights, 1):
        share = max(1 - math.exp(-1 / (0.9 * step)), 1 / step)
        average = {name: old + share * (current[name] - old) for name, old in average.items()}
    kept = dict(load_trained(str(tmp_path / "run"), "last").model.named_parameters())
    for name, expected in average.items():
        torch.testing.assert_close(kept[name].detach().double(), expected, rtol=1e-5, atol=1e-6)
