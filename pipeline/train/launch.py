"""A training from options to metrics.json: plan, lease, log, workers, summary."""

from __future__ import annotations

import dataclasses
import json
import logging
from typing import Any

from infra.cluster import apply_settings, ray_address
from infra.storage.lease import hold_lease
from infra.storage.retry import retry_with_backoff
from pipeline.cli import ProgressLine
from pipeline.config.train import TrainConfig
from pipeline.runs.checkpoints import Checkpoints
from pipeline.runs.folder import Run
from pipeline.runs.log import RunLog
from pipeline.train.distributed import ProcessGroup
from pipeline.train.loop import AssertLeaseHeld, train
from pipeline.train.prepare import Training, plan, reserve_run, resolve

logger = logging.getLogger(__name__)


def main(config: TrainConfig) -> None:
    """Resolve the options, show the plan, take the run's lease, train, sum up."""
    training = resolve(config)
    config, run = training.config, training.run
    lines = "\n".join(plan(training))
    if config.dry_run:
        logger.info(lines)
        logger.info(json.dumps(dataclasses.asdict(config), indent=1))
        return
    with hold_lease(run.store) as lease:
        reserve_run(training)
        with RunLog(run.store, 60 * config.checkpointing.checkpoint_minutes, lease.check):
            logger.info(lines)
            if names := run.checkpoints.names():
                logger.info(f"resuming from {int(names[-1]):,} images")
            with ProgressLine("training", *progress_goal(config)) as line:
                last = train_with(training, line, lease.check)
            summarise(run, last)


def progress_goal(config: TrainConfig) -> tuple[float | None, str]:
    """Length of the training, if the budget limits it, and its unit."""
    budget = config.budget
    if budget.max_minutes and not budget.max_images:
        return 60 * budget.max_minutes, "s"
    return budget.max_images or None, "images"


def show(config: TrainConfig, line: ProgressLine, row: dict[str, Any]) -> None:
    """A row of metrics on the progress line; validations are logged."""
    done = row["train_s"] if progress_goal(config)[1] == "s" else row["images_seen"]
    text = f"loss {row['loss']:.4f}  {row['images_per_sec']:,.0f} images/s  lr {row['lr']:.1e}"
    line.update(done, f"{text}  waiting for data {row['data_wait_share']:.1%}  {row['peak_memory_mb']:,.0f} MB")
    if "val_psnr_db" in row:
        back = f", round trip {row['round_trip_max_error']:.1e}" if "round_trip_max_error" in row else ""
        logger.info(
            f"epoch {row['epoch']:.1f}: validation {row['val_psnr_db']:.2f} dB "
            f"(degraded {row['val_psnr_db_degraded']:.2f}), {text}{back}"
        )


def train_with(training: Training, line: ProgressLine, assert_lease_held: AssertLeaseHeld) -> dict[str, Any]:
    """Train in this process or with Ray; returns the last row of metrics."""
    config, last = training.config, dict[str, Any]()

    def log_metrics(row: dict[str, Any]) -> None:
        last.update(row)
        show(config, line, row)

    if config.cluster.ray:
        apply_settings(starts_here=config.cluster.simulate_nodes or ray_address(config.cluster.nodes) is None)
        from pipeline.train.ray_workers import run_on_ray  # Ray is optional, and reads its settings when imported

        run_on_ray(config, log_metrics, assert_lease_held)
    else:
        train(config, ProcessGroup.single_process(), log_metrics, assert_lease_held, training)
    return last


def summarise(run: Run, last: dict[str, Any]) -> None:
    """Write metrics.json and log a closing line."""

    def write() -> tuple[int, dict[str, Any]]:
        checkpoints = Checkpoints(run.store)  # listed again: workers wrote them
        best, images_seen = checkpoints.best() or {}, int(checkpoints.names()[-1])
        run.write_json("metrics.json", {"images_seen": images_seen, "best": best, "last": last})
        return images_seen, best

    images_seen, best = retry_with_backoff(write, run.store)
    text = f"best validation {best['val_psnr_db']:.2f} dB" if best else "no validation yet (less than an epoch)"
    logger.info(f"trained {images_seen:,} images, {text}; the run is {run.url}")
    logger.info(f"next: python -m pipeline.evaluate --run {run.url}")
