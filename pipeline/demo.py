"""python -m pipeline.demo: the whole way once, on this machine: local S3, shards, training, evaluation, restoration.

It runs the same commands that a user types, and prints each before it runs.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from pipeline.cli import exit_code_of

logger = logging.getLogger(__name__)

OUT = Path("runs/demo")
STORE = "s3://irae"
TRAIN_MINUTES = 3.0
SIGMA_255 = 25
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")
"""The natural colour photographs that scikit-image ships."""
PHOTOGRAPH_SIZE = 256


def main() -> None:
    """Everything, one command after the other; ends with a picture, a table and where all of it is."""
    from infra.local_s3.server import LocalS3

    begin = time.monotonic()
    server = LocalS3(Path(".local_s3"))
    server.start()
    os.environ |= {**server.env(), "IRAE_STORE": STORE}
    logger.info(f"local S3 at {server.endpoint}; to use it yourself: " + 'eval "$(python -m infra.local_s3 env)"')
    photographs = copy_photographs(OUT / "photographs")
    shutil.rmtree(OUT / "restored", ignore_errors=True)

    def run(command: str) -> None:
        logger.info(f"\n$ IRAE_STORE={STORE} python -m {command}")
        result = subprocess.run([sys.executable, "-m", *shlex.split(command)])
        if result.returncode:
            raise SystemExit(result.returncode)

    run("pipeline.shard --source synthetic --train-images 4800")
    run(f"pipeline.shard --source folder --root {photographs} --size {PHOTOGRAPH_SIZE} --split test")
    run(
        f"pipeline.train --preset laptop --data synthetic --name demo --workers-per-node 2 --sigma-255 {SIGMA_255} "
        f"--max-minutes {TRAIN_MINUTES:g}"
    )
    run("pipeline.evaluate --run demo --data folder --examples 99")
    results = fetch_evaluation(OUT / "evaluation")
    noisy = OUT / "noisy"
    collect(results / "examples", "degraded", noisy)
    run(f"pipeline.restore {noisy} {OUT}/restored --run demo")
    shutil.copy(results / "metrics.json", OUT / "metrics.json")
    draw_triples(results / "examples", OUT / "restored", OUT / "demo.png")
    run(f"pipeline.report demo --out {OUT}/report.html")
    conclude(time.monotonic() - begin)


def copy_photographs(folder: Path) -> Path:
    """The photographs in a folder of their own, as a source for `pipeline.shard`."""
    import skimage

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in PHOTOGRAPHS:
        shutil.copy(Path(skimage.__file__).parent / "data" / name, folder / name)
    return folder


def fetch_evaluation(target: Path) -> Path:
    """Copy what was found of the photographs from the run's folder; where it lies now."""
    from infra.storage import open_storage

    shutil.rmtree(target, ignore_errors=True)
    store = open_storage(f"{STORE}/runs/demo/evaluations")
    (name,) = (name for name in store.folders() if name.startswith("folder-"))
    for entry in store.list(f"{name}/"):
        store.get_file(entry.name, target / entry.name)
    return target / name


def collect(examples: Path, kind: str, target: Path) -> None:
    """One kind of the examples, under their own names."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for path in examples.glob(f"*-{kind}.png"):
        shutil.copy(path, target / f"{path.name.removesuffix(f'-{kind}.png')}.png")


def draw_triples(examples: Path, restored: Path, target: Path) -> None:
    """Clean, noisy and restored side by side, one row an image, with a caption over each column."""
    from PIL import Image, ImageDraw, ImageFont

    names = sorted(path.name.removesuffix("-clean.png") for path in examples.glob("*-clean.png"))
    size, gap, caption = PHOTOGRAPH_SIZE, 8, 30
    sheet = Image.new("RGB", (3 * size + 4 * gap, caption + len(names) * (size + gap) + gap), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=16)
    for column, title in enumerate(("clean", f"noisy, sigma {SIGMA_255}", "restored by IRAE")):
        left = gap + column * (size + gap)
        draw.text((left + size / 2, gap + caption / 2), title, fill="black", font=font, anchor="mm")
    for row, name in enumerate(names):
        top = gap + caption + row * (size + gap)
        files = (examples / f"{name}-clean.png", examples / f"{name}-degraded.png", restored / f"{name}.png")
        for column, path in enumerate(files):
            with Image.open(path) as image:
                sheet.paste(image, (gap + column * (size + gap), top))
    sheet.save(target)


def conclude(elapsed_s: float) -> None:
    """What came of it, and where everything is."""
    metrics = json.loads((OUT / "metrics.json").read_text())
    gain_db = metrics["psnr_db_restored"] - metrics["psnr_db_degraded"]
    logger.info(f"\nDone in {elapsed_s / 60:.1f} minutes: +{gain_db:.2f} dB on photographs that the network never saw.")
    for path, what in (
        ("report.html", "the page to open: figures, pictures with a slider, curves, how to repeat it"),
        ("demo.png", "clean, noisy and restored side by side"),
        ("metrics.json", "the figures, with the protocol that they belong to"),
        ("restored/", "what pipeline.restore made of noisy/"),
    ):
        logger.info(f"  {OUT / path}: {what}")
    logger.info(
        f"  {STORE}/runs/demo: the run (checkpoints, metrics.parquet, tensorboard/), {STORE}/data: the data sets"
    )
    logger.info("The S3 server goes on running; stop it with `python -m infra.local_s3 stop`.")


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
