"""python -m pipeline.train: a data set -> a trained run, on this machine or on a Ray cluster."""

from __future__ import annotations

import dataclasses
import json
import logging
from typing import TYPE_CHECKING, Any

from pipeline.cli import ProgressLine
from pipeline.config.train import TrainConfig

if TYPE_CHECKING:
    from collections.abc import Callable


from infra.storage.lease import hold_lease
from infra.storage.retry import retry_with_backoff
from pipeline.runs.find import open_checked
from pipeline.runs.folder import BEST, Run
from pipeline.runs.log import RunLog
from pipeline.train.distributed import ProcessGroup
from pipeline.train.loop import train
from pipeline.train.prepare import claim_run, plan, resolve
from pipeline.train.ray_workers import run

logger = logging.getLogger(__name__)


def main(config: TrainConfig) -> None:
    """Resolve, say what will be done, claim the run's folder, train, sum up."""

    config = resolve(config)
    lines = "\n".join(plan(config))
    if config.dry_run:
        logger.info(lines)
        logger.info(json.dumps(dataclasses.asdict(config), indent=1))
        return
    assert config.out
    with hold_lease(open_checked(config.out)) as lock:
        run = claim_run(config)
        with RunLog(run.store, 60 * config.checkpoint_minutes, lock.check):
            logger.info(lines)
            if done := run.checkpoints():
                logger.info(f"resuming from {int(done[-1]):,} images")
            with ProgressLine("training", progress_total(config), progress_unit(config)) as line:
                last = train_with(config, line, lock.check)
            summarise(config, run, last)


def progress_total(config: TrainConfig) -> float | None:
    return config.max_images or (config.max_minutes * 60 if config.max_minutes else None)


def progress_unit(config: TrainConfig) -> str:
    return "s" if config.max_minutes and not config.max_images else "images"


def show(config: TrainConfig, line: ProgressLine, row: dict[str, Any]) -> None:
    """One row of metrics on the display; validations are kept as lines."""
    done = row["train_s"] if progress_unit(config) == "s" else row["images_seen"]
    text = f"loss {row['loss']:.4f}  {row['images_per_sec']:,.0f} images/s  lr {row['lr']:.1e}"
    line.update(done, f"{text}  waiting for data {row['data_wait_share']:.1%}  {row['peak_memory_mb']:,.0f} MB")
    if "val_psnr_db" in row:
        back = f", round trip {row['round_trip_max_error']:.1e}" if "round_trip_max_error" in row else ""
        logger.info(
            f"epoch {row['epoch']:.1f}: validation {row['val_psnr_db']:.2f} dB "
            f"(degraded {row['val_psnr_db_degraded']:.2f}), {text}{back}"
        )


def train_with(config: TrainConfig, line: ProgressLine, assert_lease_held: Callable[[], None]) -> dict[str, Any]:
    """Train in this process or with Ray; returns the last row of metrics."""
    last: dict[str, Any] = {}

    def log_metrics(row: dict[str, Any]) -> None:
        last.update(row)
        show(config, line, row)

    if config.ray:
        run(config, log_metrics, assert_lease_held)
    else:
        train(config, ProcessGroup.single_process(), log_metrics, assert_lease_held)
    return last


def summarise(config: TrainConfig, run: Run, last: dict[str, Any]) -> None:
    """metrics.json and a closing line."""

    def write() -> tuple[int, dict[str, Any]]:
        best = run.read_json(BEST) or {}
        images_seen = int(run.checkpoints()[-1])
        run.write_json("metrics.json", {"images_seen": images_seen, "best": best, "last": last})
        return images_seen, best

    images_seen, best = retry_with_backoff(write, run.store)
    text = f"best validation {best['val_psnr_db']:.2f} dB" if best else "no validation yet (less than an epoch)"
    logger.info(f"trained {images_seen:,} images, {text}; the run is {config.out}")
    logger.info(f"next: python -m pipeline.evaluate --run {config.out}")
