"""Runs cells side by side as Ray tasks, or one after the other."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence

from infra.cluster import ray_session
from pipeline.cli import ProgressLine
from pipeline.reproduce.experiments import Cell
from pipeline.reproduce.run_experiment import Result, run_cell

logger = logging.getLogger(__name__)

Show = Callable[[Result], None]
Work = Callable[..., Result]
"""(cell, threads=...) -> its result; raises nothing."""


def run_all(cells: Sequence[Cell], use_ray: bool, work: Work = run_cell) -> list[Result]:
    """What `work` makes of each cell, in their order."""
    results: dict[str, Result] = {}
    with ProgressLine("reproducing", len(cells), "cells") as line:

        def show(result: Result) -> None:
            results[result.cell.name] = result
            logger.info(f"{len(results)} of {len(cells)}: {describe(result)}")
            line.update(len(results))

        if use_ray:
            run_with_ray(cells, show, work)
        else:
            for cell in cells:
                show(work(cell))
    return [results[cell.name] for cell in cells]


def describe(result: Result) -> str:
    """A cell's result in one line."""
    if result.error is not None:
        return f"{result.cell.name} failed: {result.error}"
    trained = result.trained
    return (
        f"{result.cell.name}: {result.metrics['psnr_db_restored']:.2f} dB on {result.metrics['images']:,} images, "
        f"trained on {trained['images']:,} in {trained['train_s']:,.0f} s"
    )


def run_with_ray(cells: Sequence[Cell], show: Show, work: Work) -> None:
    """As many at once as the machines hold: a GPU each where there are any, else a processor each, with one thread."""

    with ray_session(1):
        import ray
        from ray.exceptions import RayError

        has_gpu = ray.cluster_resources().get("GPU", 0) > 0
        task = ray.remote(num_cpus=1, num_gpus=int(has_gpu))(_in_task)
        waiting = {task.remote(work, cell, None if has_gpu else 1): cell for cell in cells}
        while waiting:
            (done, *_), _ = ray.wait(list(waiting), timeout=None)
            cell = waiting.pop(done)
            try:
                result = ray.get(done)
            except RayError as error:
                if os.environ.get("IRAE_DEBUG"):
                    raise
                result = Result(cell, error=f"its worker was lost ({str(error).strip().splitlines()[0]})")
            show(result)


def _in_task(work: Work, cell: Cell, threads: int | None) -> Result:
    return work(cell, threads=threads)
