"""Runs experiments side by side as Ray tasks, or one after the other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from infra.cluster import ray_session
from infra.storage import UserError
from pipeline.cli import ProgressLine
from pipeline.reproduce.experiments import Experiment
from pipeline.reproduce.run_experiment import Result, failed, run_experiment

logger = logging.getLogger(__name__)

Work = Callable[..., Result]
"""(experiment, threads=...) -> its result; raises nothing."""


def run_all(experiments: Sequence[Experiment], use_ray: bool, work: Work = run_experiment) -> list[Result]:
    """Result of each experiment, in their order."""
    results: dict[str, Result] = {}
    with ProgressLine("reproducing", len(experiments), "experiments") as line:
        for result in run_with_ray(experiments, work) if use_ray else map(work, experiments):
            results[result.experiment.name] = result
            logger.info(f"{len(results)} of {len(experiments)}: {describe(result)}")
            line.update(len(results))
    return [results[experiment.name] for experiment in experiments]


def describe(result: Result) -> str:
    """A result in one line."""
    if result.error is not None:
        return f"{result.experiment.name} failed: {result.error}"
    trained = result.trained
    return (
        f"{result.experiment.name}: {result.metrics['psnr_db_restored']:.2f} dB on {result.metrics['images']:,} "
        f"images, trained on {trained['images']:,} in {trained['train_s']:,.0f} s"
    )


def run_with_ray(experiments: Sequence[Experiment], work: Work) -> Iterator[Result]:
    """Results as they come: one task for each GPU, or without GPUs one of one thread for each processor."""
    with ray_session(1):
        import ray
        from ray.exceptions import RayError

        has_gpu = ray.cluster_resources().get("GPU", 0) > 0
        task: Any = ray.remote(num_cpus=1, num_gpus=int(has_gpu))(lambda e: work(e, threads=None if has_gpu else 1))
        waiting = {task.remote(experiment): experiment for experiment in experiments}
        while waiting:
            (done, *_), _ = ray.wait(list(waiting), timeout=None)
            experiment = waiting.pop(done)
            try:
                result = ray.get(done)
            except RayError as error:
                reason = str(error).strip().splitlines()[0]
                result = failed(experiment, UserError(f"its worker was lost ({reason})"))
            yield result
