"""`python -m pipeline.demo`: every stage from images to the report on this machine, with a local S3 server.

Runs the commands that a user types, and prints each of them first.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from infra.local_s3.server import LocalS3, default_folder
from infra.storage import open_storage
from pipeline.cli import run_command

logger = logging.getLogger(__name__)

STORE = "s3://irae"
SIGMA_255 = 25
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")
"""Natural colour photographs that scikit-image ships."""
PHOTOGRAPH_SIZE = 256


@dataclass(frozen=True)
class DemoConfig:
    """Train on synthetic images, restore photographs: under 10 minutes."""

    out: Path = Path("runs/demo")
    """Folder of the results; the data sets and the run are on the local S3."""

    train_minutes: float = 3.0
    """Training budget."""

    train_images: int = 4800
    """Synthetic images to train on."""


def main(config: DemoConfig) -> None:
    """Run every command; write the figures, the images and the report to `config.out`."""
    out = config.out
    server = LocalS3(default_folder())
    server.start()
    os.environ |= {**server.env(), "IRAE_STORE": STORE}
    logger.info(f"local S3 at {server.endpoint}; to use it yourself: " + 'eval "$(python -m infra.local_s3 env)"')
    photographs = copy_photographs(out / "photographs")
    shutil.rmtree(out / "restored", ignore_errors=True)
    run(f"pipeline.shard --source synthetic --train-images {config.train_images}")
    run(f"pipeline.shard --source folder --root {photographs} --size {PHOTOGRAPH_SIZE} --split test")
    run(
        f"pipeline.train --preset laptop --data synthetic --name demo --workers-per-node 2 --sigma-255 {SIGMA_255} "
        f"--max-minutes {config.train_minutes:g}"
    )
    run("pipeline.evaluate --run demo --data folder --examples 99")
    results = fetch_evaluation(out / "evaluation")
    copy_examples(results / "examples", "degraded", out / "noisy")
    run(f"pipeline.restore {out}/noisy {out}/restored --run demo")
    shutil.copy(results / "metrics.json", out / "metrics.json")
    run(f"pipeline.report demo --out {out}/report.html")
    summarise(out)


def run(command: str) -> None:
    """Print a command, run it, and exit with its exit code if it fails."""
    logger.info(f"\n$ IRAE_STORE={STORE} python -m {command}")
    result = subprocess.run([sys.executable, "-m", *shlex.split(command)])
    if result.returncode:
        raise SystemExit(result.returncode)


def copy_photographs(folder: Path) -> Path:
    """Copy the photographs into an emptied folder, a source for `pipeline.shard`."""
    import skimage

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in PHOTOGRAPHS:
        shutil.copy(Path(skimage.__file__).parent / "data" / name, folder / name)
    return folder


def fetch_evaluation(target: Path) -> Path:
    """Copy the evaluation on the photographs from the run's folder; returns the local folder."""
    shutil.rmtree(target, ignore_errors=True)
    store = open_storage(f"{STORE}/runs/demo/evaluations")
    (name,) = (name for name in store.folders() if name.startswith("folder-"))
    for entry in store.list(f"{name}/"):
        store.get_file(entry.name, target / entry.name)
    return target / name


def copy_examples(examples: Path, kind: str, target: Path) -> None:
    """Copy "clean", "degraded" or "restored" examples, named after their images, into an emptied folder."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for path in examples.glob(f"*-{kind}.png"):
        shutil.copy(path, target / f"{path.name.removesuffix(f'-{kind}.png')}.png")


def summarise(out: Path) -> None:
    """Print the gain in PSNR and where the results are."""
    metrics = json.loads((out / "metrics.json").read_text())
    gain_db = metrics["psnr_db_restored"] - metrics["psnr_db_degraded"]
    logger.info(f"\nDone: {gain_db:+.2f} dB on photographs that the model was not trained on.")
    logger.info(f"  {out}/report.html: the page to open: metrics, images with a slider, curves, commands to rerun it")
    logger.info(f"  {out}/metrics.json: the metrics and their protocol; {out}/restored/: output of pipeline.restore")
    logger.info(
        f"  {STORE}/runs/demo: the run (checkpoints, metrics.parquet, tensorboard/); {STORE}/data: the data sets"
    )
    logger.info("The S3 server keeps running; stop it with `python -m infra.local_s3 stop`.")


if __name__ == "__main__":
    run_command(DemoConfig, main)
