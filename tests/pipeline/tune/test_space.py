"""The search space, its points as training configurations, and the check of its options."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import optuna
import pytest

from infra.storage import UserError
from pipeline.tune.config import TuneConfig
from pipeline.tune.prepare import resolve
from pipeline.tune.space import base_point, suggest, trial_config
from tests.pipeline.tune.common import BASE, CONFIG
from tests.support.datasets import make_dataset


def sampled(config: TuneConfig, count: int, epochs: float = 5.0) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    trials = [study.ask() for _ in range(count)]
    for trial in trials:
        suggest(config, trial, epochs)
    return [trial.params for trial in trials]


def test_every_point_of_the_space_is_a_training_configuration() -> None:
    """Valid, in the ranges, with the hyperparameters of its own schedule and of no other."""
    points = sampled(CONFIG, 300)
    assert {point["lr_schedule"] for point in points} == set(CONFIG.lr_schedules)
    for point in points:
        config = trial_config(CONFIG, point, 7, "/searches/x")
        options = config.options()
        assert not config.problems()
        for name in ("K", "L", "lr", "lr_schedule", "global_batch_size", "width", "scale_min"):
            assert options[name] == point[name]
        assert options["lr_warmup_images"] == round(point.get("warmup_share", 0) * 160)
        assert (config.out, options["validate_images"], options["ema_images"]) == ("/searches/x/trials/0007", 40, 20)
        others = {f"{name}_" for name in CONFIG.lr_schedules if name != point["lr_schedule"]}
        assert not [name for name in point if any(name.startswith(other) for other in others)]
        for name, value in point.items():
            if name.startswith(f"{point['lr_schedule']}_"):
                assert options[f"lr_{name.partition('_')[2]}"] == value


def test_the_base_is_a_point_of_the_space() -> None:
    study = optuna.create_study()
    study.enqueue_trial(base_point(CONFIG))
    trial = study.ask()
    suggest(CONFIG, trial, 1.0)
    config = trial_config(CONFIG, trial.params, 0, "/searches/x")
    assert config.model == BASE.model
    assert dataclasses.replace(config.optimization, ema_images=0) == BASE.optimization
    assert config.schedule.lr_schedule == BASE.schedule.lr_schedule


def test_all_problems_of_a_space_are_raised_at_once(tmp_path: Path) -> None:
    data = make_dataset(str(tmp_path / "data"))
    config = dataclasses.replace(
        CONFIG,
        K_range=(5, 2),
        L_range=(1, 5),
        lr_range=(0.0, 1e-3),
        lr_schedules=(),
        batches=(0, 8),
        gpus_per_trial=-1,
        memory_gb=0,
        base=BASE.with_options(data=data, max_images=None),
    )
    with pytest.raises(UserError) as error:
        resolve(config)
    for text in (
        "--K-range 5 2 is the wrong way round",
        "--lr-range begins at 0",
        "--lr-schedules is empty",
        "--L 5",
        "give --max-images",
        "--batches holds 0",
        "--gpus-per-trial is -1",
        "--memory-gb is 0",
    ):
        assert text in str(error.value)


def test_a_space_of_one_point_is_refused(tmp_path: Path) -> None:
    base = BASE.with_options(data=make_dataset(str(tmp_path / "data")), out=str(tmp_path / "search"))
    point = TuneConfig(K_range=(2, 2), L_range=(1, 1), lr_range=(1e-3, 1e-3), lr_schedules=("constant",), base=base)
    with pytest.raises(UserError, match="one point only"):
        resolve(point)
    config, folder, dataset = resolve(dataclasses.replace(point, lr_schedules=("cosine",)))
    assert config.base.out == folder.store.url and dataset.split_sizes["train"] == 48
