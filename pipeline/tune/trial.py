"""One trial in a worker of Ray Tune: the training loop, or several training workers in a Ray Train of their own."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import ray
from ray import tune

from infra.storage import UserError, open_storage
from irae.model import parameter_count
from irae.registry import build
from pipeline.config.checks import USER_ERRORS
from pipeline.config.train import TrainConfig
from pipeline.runs.folder import CONFIG, Run
from pipeline.train.distributed import ProcessGroup, use_threads
from pipeline.train.loop import LogMetrics, train
from pipeline.tune.config import TuneConfig
from pipeline.tune.space import trial_config

TRACEBACK = "failure.txt"
"""Traceback of a failed trial, in its run's folder."""


def run_trial(point: dict[str, Any], *, tune_config: TuneConfig, search_url: str) -> None:
    """Train the point {number, params} to its end, with a result for each validation and one at the end.

    An error of the training is a result too: Ray Tune restarts a trial that raises, which is for workers that died.
    """
    config = trial_config(tune_config, point["params"], point["number"], search_url)
    assert config.out
    run = Run(open_storage(config.out))
    run.write_json(CONFIG, dataclasses.asdict(config))
    result = first_result(config, run)

    def log_metrics(row: dict[str, Any]) -> None:
        update_result(result, row)
        if "val_psnr_db" in row and row["images_seen"] < tune_config.trial_images:
            tune.report(dict(result))

    try:
        if config.cluster.workers > 1:
            train_on_workers(config, log_metrics)
        else:
            use_threads(tune_config.cpus_per_trial)
            train(config, ProcessGroup.single_process(), log_metrics)
        tune.report({**result, "finished": True})
    except Exception as error:
        run.store.put(TRACEBACK, traceback.format_exc().encode())
        kind = "" if isinstance(error, USER_ERRORS) else f"{type(error).__name__}: "
        tune.report({**result, "failure": f"{kind}{error}"})


def first_result(config: TrainConfig, run: Run) -> dict[str, Any]:
    """Result for Ray Tune as of the run's last checkpoint, or of a new run."""
    images = int((run.checkpoints.names() or ["0"])[-1])
    result = {
        "parameters": parameter_count(build(config.model.name, config.model.irae)),
        "val_psnr_db": (run.checkpoints.best() or {"val_psnr_db": -math.inf})["val_psnr_db"],
        "images_seen": images,
        "images_per_sec": 0.0,
        "peak_memory_mb": 0.0,
        "finished": False,
    }
    for row in run.read_metrics(images)[-1:]:
        update_result(result, {name: value for name, value in row.items() if value is not None})
    return result


def update_result(result: dict[str, Any], row: dict[str, Any]) -> None:
    """Add a row of metrics; PSNR is the best so far. Raises UserError when PSNR is not finite."""
    psnr_db = row.get("val_psnr_db", -math.inf)
    if "val_psnr_db" in row and not math.isfinite(psnr_db):
        raise UserError(f"validation PSNR is {psnr_db} after {row['images_seen']:,} images.")
    result["images_seen"], result["peak_memory_mb"] = row["images_seen"], row["peak_memory_mb"]
    result["images_per_sec"] = row["images_seen"] / max(row["train_s"], 1e-9)
    result["val_psnr_db"] = max(result["val_psnr_db"], psnr_db)


def train_on_workers(config: TrainConfig, log_metrics: LogMetrics) -> None:
    """Train with several workers: their driver is a process of its own, which exits when its standard input closes."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_JOB", "RAY_RAYLET"))}
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)  # Ray may have given this process its modules in another way
    environment["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    command, pipe = [sys.executable, "-m", "pipeline.tune.trial_driver"], subprocess.PIPE
    driver = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
    assert driver.stdin and driver.stdout
    driver.stdin.write(json.dumps(dataclasses.asdict(config)) + "\n")
    driver.stdin.flush()
    try:
        for line in driver.stdout:
            if line.startswith("{"):
                message = json.loads(line)
                if "error" in message:
                    raise UserError(message["error"])
                log_metrics(message)
        if driver.wait():
            raise RuntimeError(f"the driver of the trial's workers failed with exit code {driver.returncode}")
    finally:
        driver.stdin.close()
        driver.wait()
