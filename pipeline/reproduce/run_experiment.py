"""One cell from beginning to end, where it was interrupted: train, evaluate. In this process or a Ray task."""

from __future__ import annotations

import io
import json
import os
from dataclasses import dataclass, field
from typing import Any

from infra.storage import open_storage
from infra.storage.lease import hold_lease
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.evaluation import METRICS, PER_IMAGE, evaluate, prepare
from pipeline.reproduce.experiments import Cell
from pipeline.runs.folder import Run
from pipeline.train.distributed import ProcessGroup, use_threads
from pipeline.train.loop import train
from pipeline.train.prepare import claim_run
from pipeline.train.step import resolve_precision

TRAINED = "trained.json"
"""In the cell's folder, once its budget is used up."""


@dataclass(frozen=True)
class Result:
    """What came of a cell: its figures, or why it has none."""

    cell: Cell
    metrics: dict[str, Any] = field(default_factory=dict)
    """metrics.json of the evaluation."""
    trained: dict[str, Any] = field(default_factory=dict)
    """TRAINED: images, seconds, precision."""
    psnr_db: list[float] = field(default_factory=list)
    """Of each image, in the order of the split."""
    error: str | None = None


def run_cell(cell: Cell, threads: int | None = None) -> Result:
    """Never raises but for an interruption: a cell that fails is a row of the table with its message."""

    if threads:
        use_threads(threads)
    try:
        trained = train_cell(cell)
        metrics, psnr_db = evaluate_cell(cell)
    except Exception as error:  # whatever it is, the other cells go on
        if os.environ.get("IRAE_DEBUG"):
            raise
        return Result(cell, error=message(error))
    return Result(cell, metrics, trained, psnr_db)


def message(error: Exception) -> str:
    """A ValueError of ours is a sentence; others need their kind beside them."""
    sentence = isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError)
    return str(error) if sentence else f"{type(error).__name__}: {error}"


def train_cell(cell: Cell) -> dict[str, Any]:
    """Train to the end of the budget, unless that was done before; what TRAINED says."""

    run = Run(open_storage(cell.url))
    held = run.read_json(TRAINED)
    if held is not None:
        return held

    with hold_lease(run.store) as lock:
        claim_run(cell.config)
        group = ProcessGroup.single_process()
        train(cell.config, group, lambda row: None, assert_lease_held=lock.check)
        checkpoint = run.newest_checkpoint()
        assert checkpoint
        state = checkpoint.state
        trained = {
            "images": state["images_seen"],
            "train_s": state["train_s"],
            "precision": resolve_precision(cell.config.precision, group.device),
            "device": str(group.device.type),
        }
        run.write_json(TRAINED, trained)
    return trained


def evaluate_cell(cell: Cell) -> tuple[dict[str, Any], list[float]]:
    """Figures of the test images, unless they are there already, and PSNR (dB) of each."""
    import pyarrow.parquet as pq

    evaluation = prepare(
        EvaluateConfig(
            run=cell.url,
            data=cell.config.data,
            split=cell.split,
            protocol=cell.protocol,
            images=cell.test_images,
            checkpoint="best",
        )
    )
    try:
        metrics = json.loads(evaluation.out.get(METRICS))
    except FileNotFoundError:
        metrics = {}
    if metrics.get("images") != evaluation.images:
        metrics = evaluate(evaluation)
    rows = pq.read_table(io.BytesIO(evaluation.out.get(PER_IMAGE)), columns=["psnr_db_restored"])
    return metrics, rows["psnr_db_restored"].to_pylist()
