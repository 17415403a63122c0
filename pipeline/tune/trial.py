"""What runs one trial: the training loop, in a worker of Ray Tune; several workers in a Ray Train of their own."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from infra.storage import UserError, open_storage
from irae.model import parameter_count
from irae.registry import build
from pipeline.config.train import TrainConfig
from pipeline.runs.folder import BEST, CONFIG, Run
from pipeline.train.distributed import ProcessGroup, use_threads
from pipeline.train.loop import train
from pipeline.tune.config import TuneConfig
from pipeline.tune.space import trial_config

FAILURE = "failure.json"


def run_trial(point: dict[str, Any], *, tune_config: TuneConfig, search_url: str) -> None:
    """Train the point {number, params} to its end, reporting each validation to Ray Tune.

    An error of the training itself is left in the trial's folder, so that it is told from a worker that died.
    """
    config = trial_config(tune_config, point["params"], point["number"], search_url)
    assert config.out
    run = Run(open_storage(config.out))
    try:
        train_and_report(config, run, threads=tune_config.cpus_per_trial)
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        run.write_json(FAILURE, {"message": f"{kind}{error}"})
        raise


def failure_of(url: str) -> str | None:
    """What the trial in this folder failed of, if it did."""
    found = Run(open_storage(url)).read_json(FAILURE)
    return found["message"] if found else None


def train_and_report(config: TrainConfig, run: Run, threads: int) -> None:
    """Train; each validation is a result, and the end is one more, after the last checkpoint was kept."""
    import dataclasses

    from ray import tune

    run.write_json(CONFIG, dataclasses.asdict(config))
    best = run.read_json(BEST) or {"val_psnr_db": -math.inf}
    result: dict[str, Any] = {"images_per_sec": 0.0}
    result["parameters"] = parameter_count(build(config.system, config.model))
    result |= {"val_psnr_db": best["val_psnr_db"], "images_seen": int((run.checkpoints() or ["0"])[-1])}
    result |= {"peak_memory_mb": 0.0, "finished": False}

    def report(row: dict[str, Any]) -> None:
        result["images_per_sec"] = row["images_seen"] / max(row["train_s"], 1e-9)
        result["images_seen"], result["peak_memory_mb"] = row["images_seen"], row["peak_memory_mb"]
        if "val_psnr_db" not in row:
            return
        if not math.isfinite(row["val_psnr_db"]):
            raise UserError(f"validation PSNR is {row['val_psnr_db']} after {row['images_seen']:,} images.")
        result["val_psnr_db"] = max(result["val_psnr_db"], row["val_psnr_db"])
        if row["images_seen"] < (config.max_images or math.inf):
            tune.report(dict(result))

    if config.nodes * (config.workers_per_node or 1) > 1:
        train_with_team(config, report)
    else:
        train_alone(config, report, threads)
    tune.report({**result, "finished": True})


def train_alone(config: TrainConfig, report: Any, threads: int) -> None:
    """One worker: this process."""

    use_threads(threads)
    train(config, ProcessGroup.single_process(), report)


def train_with_team(config: TrainConfig, report: Any) -> None:
    """Several workers: a driver of their own, which ends with this process, at the end of its standard input."""
    import dataclasses

    import ray

    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_JOB", "RAY_RAYLET"))}
    places = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(places)  # this process may know its modules by other ways
    environment["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    driver = subprocess.Popen(
        [sys.executable, "-m", "pipeline.tune.trial_driver"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert driver.stdin and driver.stdout
    driver.stdin.write(json.dumps(dataclasses.asdict(config)) + "\n")
    driver.stdin.flush()
    try:
        for line in driver.stdout:
            if not line.startswith("{"):
                continue
            message = json.loads(line)
            if "error" in message:
                raise UserError(message["error"])
            report(message)
        if driver.wait():
            raise RuntimeError(f"the workers' driver ended with exit code {driver.returncode}")
    finally:
        driver.stdin.close()
        driver.wait()
