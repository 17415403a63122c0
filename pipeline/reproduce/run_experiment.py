"""One experiment, resumed where it was interrupted: train, evaluate. In this process or a Ray task."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from typing import Any

from infra.storage import open_storage
from infra.storage.lease import hold_lease
from infra.storage.parquet import read_parquet
from pipeline.config.checks import USER_ERRORS
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.evaluation import evaluate, prepare
from pipeline.reproduce.experiments import Experiment
from pipeline.runs.checkpoints import Checkpoints, read_json, write_json
from pipeline.runs.evaluations import METRICS, PER_IMAGE
from pipeline.train.distributed import ProcessGroup, use_threads
from pipeline.train.loop import train
from pipeline.train.prepare import Training, reserve_run
from pipeline.train.step import resolve_precision

logger = logging.getLogger(__name__)

TRAINED = "trained.json"
"""File in an experiment's folder, written when its budget is used up."""


@dataclass(frozen=True)
class Result:
    """Measures of an experiment, or why it has none."""

    experiment: Experiment
    metrics: dict[str, Any] = field(default_factory=dict)
    """metrics.json of the evaluation."""
    trained: dict[str, Any] = field(default_factory=dict)
    """TRAINED: images, train_s, precision, device."""
    psnr_db: list[float] = field(default_factory=list)
    """PSNR of each image, in the order of the split."""
    error: str | None = None


def run_experiment(experiment: Experiment, threads: int | None = None) -> Result:
    """Train and evaluate, unless that was done before. Any error but an interruption is the result's message."""
    if threads:
        use_threads(threads)
    try:
        trained = train_experiment(experiment)
        metrics, psnr_db = evaluate_experiment(experiment)
    except Exception as error:
        return failed(experiment, error)
    return Result(experiment, metrics, trained, psnr_db)


def failed(experiment: Experiment, error: Exception) -> Result:
    """The error as a result, so that the other experiments continue. Raises it when IRAE_DEBUG is set."""
    if os.environ.get("IRAE_DEBUG"):
        raise error
    if isinstance(error, USER_ERRORS):
        return Result(experiment, error=str(error))
    logger.error("%s failed", experiment.name, exc_info=error)
    return Result(experiment, error=f"{type(error).__name__}: {error}")


def train_experiment(experiment: Experiment) -> dict[str, Any]:
    """Train to the end of the budget, unless that was done before; returns the content of TRAINED."""
    config, store = experiment.config, open_storage(experiment.url)
    stored = read_json(store, TRAINED)
    if stored is not None:
        return stored
    with hold_lease(store) as lease:
        training, group = Training.open(config), ProcessGroup.single_process()
        reserve_run(training)
        train(config, group, lambda row: None, assert_lease_held=lease.check, training=training)
        checkpoint = Checkpoints(store).newest()
        assert checkpoint
        trained = {
            "images": checkpoint.state["images_seen"],
            "train_s": checkpoint.state["train_s"],
            "precision": resolve_precision(config.model.precision, group.device),
            "device": str(group.device.type),
        }
        write_json(store, TRAINED, trained)
    return trained


def evaluate_experiment(experiment: Experiment) -> tuple[dict[str, Any], list[float]]:
    """metrics.json of the test images, measured unless that was done before, and the PSNR (dB) of each."""
    plan = prepare(
        EvaluateConfig(
            run=experiment.url,
            data=experiment.config.data.url,
            split=experiment.split,
            protocol=experiment.protocol,
            images=experiment.test_images,
        )
    )
    metrics = read_json(plan.out, METRICS)
    if metrics is None or metrics["images"] != plan.images:
        metrics = evaluate(plan)
    rows = read_parquet(plan.out, PER_IMAGE, ["psnr_db_restored"])
    return metrics, rows["psnr_db_restored"].to_pylist()
