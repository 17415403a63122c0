"""Evaluation of a trained run on a data set, image by image."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from rich.console import Console
from rich.table import Table

from infra.storage import open_storage
from irae.model import parameter_count
from pipeline.cli import ProgressLine
from pipeline.config.checks import raise_problems
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.measure import EvaluationPlan, means, measure
from pipeline.runs.evaluations import EXAMPLE_KINDS, EXAMPLES, METRICS, PER_IMAGE, best_median_worst, example_name
from pipeline.runs.find import find_data, open_checked
from pipeline.runs.load import load_trained
from sharding.dataset import Dataset

logger = logging.getLogger(__name__)

RELEASED_BITS = 5


def main(config: EvaluateConfig) -> None:
    """Measure every image of the split, print the means, keep the figures and some examples."""
    evaluation = prepare(config)
    if config.dry_run:
        logger.info(describe(evaluation))
        logger.info(f"results would go to {evaluation.out.url}")
        return
    evaluate(evaluation)


def prepare(config: EvaluateConfig) -> EvaluationPlan:
    """Open the run and the data set. UserError, with all problems, when they do not fit together."""
    trained = load_trained(config.run, config.checkpoint)
    dataset = Dataset.open(open_checked(find_data(config.data or trained.config.data.url)))
    task = trained.config.task
    if config.sigma_255 is not None:
        task = dataclasses.replace(task, sigma_255=config.sigma_255)
    problems = task.missing_fields(dataset.store.url, dataset.fields)
    if config.sigma_255 is not None and task.kind != "noise":
        problems.append(f"--sigma-255 is for runs that restore noise, but {trained.url} restores {task.title}.")
    if not dataset.split_sizes.get(config.split):
        problems.append(f"the data set {dataset.store.url} has no {config.split} images; choose another --split.")
    elif unknown := sorted({*config.keep} - {*dataset.split(config.split).keys}):
        problems.append(f"--keep: {dataset.store.url} has no {config.split} image {', '.join(unknown)}; name its keys.")
    raise_problems(problems)
    out = open_storage(config.out) if config.out else trained.run.store.at("evaluations")
    folder, bits = f"{dataset.name}-{config.split}-{task.label}", dataset.bits
    if config.protocol == "released":
        folder, bits = f"{folder}-released", RELEASED_BITS
    return EvaluationPlan(config, trained, dataset, task, bits, out.at(folder))


def evaluate(evaluation: EvaluationPlan) -> dict[str, Any]:
    """Measure; write metrics.json, per_image.parquet and examples; returns the content of metrics.json."""
    out = evaluation.out
    logger.info(describe(evaluation))
    rows: list[dict[str, Any]] = []
    speeds: list[tuple[int, float]] = []
    with ProgressLine("evaluating", evaluation.images, "images") as line:
        for part in measure(evaluation, range(evaluation.images)):
            rows.extend(part.rows)
            speeds.append((len(part.rows), part.restore_s))
            line.update(len(rows))
    # Without the first batch, in which a device warms up, if there are more.
    images, seconds = (sum(values) for values in zip(*(speeds[1:] or speeds), strict=True))
    metrics = {**means(rows), **protocol(evaluation), "images_per_sec": images / max(seconds, 1e-9)}
    keep_examples(evaluation, rows)
    parquet = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), parquet)
    out.put(PER_IMAGE, parquet.getvalue())
    out.put(METRICS, json.dumps(metrics, indent=1).encode())
    logger.info(table(metrics))
    if (error := metrics.get("round_trip_max_error")) is not None:
        logger.info(f"exact inverse: the degraded image comes back with an error of at most {error:.1e}")
    logger.info(f"figures and examples are in {out.url}")
    return metrics


def keep_examples(evaluation: EvaluationPlan, rows: list[dict[str, Any]]) -> None:
    """Restore the example images once more and write them; delete other examples in the folder."""
    config, out = evaluation.config, evaluation.out
    first = [row["key"] for row in rows[: config.examples]]
    keys = dict.fromkeys([*first, *(best_median_worst(rows).values() if first else ()), *config.keep])
    indices = {key: i for i, key in enumerate(evaluation.dataset.split(config.split).keys)}
    for part in measure(evaluation, sorted(indices[key] for key in keys)) if keys else ():
        for i, row in enumerate(part.rows):
            for kind, pixels in part.pixels.items():
                png = io.BytesIO()
                Image.fromarray(pixels[i]).save(png, "PNG")
                out.put(example_name(row["key"], kind), png.getvalue())
    kept = {example_name(key, kind) for key in keys for kind in EXAMPLE_KINDS}
    for entry in out.list(f"{EXAMPLES}/"):
        if entry.name not in kept:
            out.delete(entry.name)


def describe(evaluation: EvaluationPlan) -> str:
    """A line on run, images and task."""
    trained = evaluation.trained
    released = " (released protocol)" if evaluation.config.protocol == "released" else ""
    return (
        f"evaluating {trained.url} at {int(trained.checkpoint):,} images on {evaluation.images:,} images of "
        f"{evaluation.dataset.store.url}, {evaluation.task.title}{released}"
    )


def protocol(evaluation: EvaluationPlan) -> dict[str, Any]:
    """Protocol of the figures."""
    config, trained, dataset, task = evaluation.config, evaluation.trained, evaluation.dataset, evaluation.task
    return {
        "protocol": config.protocol,
        "images": evaluation.images,
        "data": dataset.store.url,
        "dataset_sha256": dataset.sha256,
        "split": config.split,
        "image_size": dataset.image_size,
        "bits": evaluation.bits,
        "task": task.kind,
        "label": task.label,
        "sigma_255": task.sigma_255 if task.kind == "noise" else None,
        "noise_seed": config.seed,
        "psnr": "per image, on [0, 1] after clamping the restored one, mean over images",
        "ssim": "Wang 2004: 11x11 Gaussian, sigma 1.5, data range 1",
        "ssim_released": "the released code's: window of 3 over channels and rows, data range 2",
        "precision": "float32",
        "run": trained.url,
        "model": trained.model.model_name,
        "parameters": parameter_count(trained.model),
        "trained_images": int(trained.checkpoint),
    }


def table(metrics: dict[str, Any]) -> str:
    """Means of the degraded and the restored images."""
    bits = f"{metrics['bits']} bits"
    title = f"{metrics['model']}: {metrics['images']:,} images, {metrics['split']} split, {metrics['label']}, {bits}"
    lines = Table("", title=title, min_width=len(title))
    for column in ("PSNR (dB)", "SSIM", "SSIM (released)"):
        lines.add_column(column, justify="right")
    for name in ("degraded", "restored"):
        ssim, released = (f"{metrics[f'{measure}_{name}']:.4f}" for measure in ("ssim", "ssim_released"))
        lines.add_row(name, f"{metrics[f'psnr_db_{name}']:.2f}", ssim, released)
    if "psnr_db_hole_restored" in metrics:
        lines.add_row("restored, in the hole", f"{metrics['psnr_db_hole_restored']:.2f}", "", "")
    console = Console(width=100)
    with console.capture() as captured:
        console.print(lines)
    return captured.get().rstrip("\n")
