"""Runs a search: Ray Tune, with what the journal says has been done already."""

from __future__ import annotations

import dataclasses
import logging
import os
import tempfile
from typing import Any

from infra.cluster import ray_session
from infra.storage import UserError
from irae.model import parameter_count
from irae.registry import build
from pipeline.cli import ProgressLine
from pipeline.tune.config import TuneConfig
from pipeline.tune.folder import Home
from pipeline.tune.memory import predicted_mb
from pipeline.tune.searcher import JournalASHA, JournalSearch
from pipeline.tune.space import base_point, suggest, trial_config, trial_url
from pipeline.tune.trial import failure_of, run_trial
from sharding import Dataset

logger = logging.getLogger(__name__)

MEMORY_SHARE = 0.9
"""Of the memory, what trials may be predicted to take."""
ROUNDS_MAX = 5


@dataclasses.dataclass(frozen=True)
class Room:
    """What the cluster gives a search."""

    concurrent: int
    resources: dict[str, float]
    """Of the process that Ray Tune starts for a trial."""
    worker_mb: float
    """Memory of one worker."""


def search(config: TuneConfig, home: Home, dataset: Dataset) -> None:
    """All trials that are left. `config.base` is resolved. ValueError when the cluster cannot hold them."""
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what ended a trial is told by the search itself
    with ray_session(config.base.nodes):
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        has_gpus = any(node.get("GPU") for node in nodes)
        gpu_mb = ray.get(ray.remote(num_gpus=1, num_cpus=0)(gpu_memory_mb).remote()) if has_gpus else None
        room = room_for(config, nodes, gpu_mb)
        with ProgressLine("searching", config.trials, "trials") as line:
            tune_all(config, home, dataset, room, line)


def tune_all(config: TuneConfig, home: Home, dataset: Dataset, room: Room, line: ProgressLine) -> None:
    """Let Ray Tune work until the journal holds no trial that is not finished."""
    from ray import tune

    assert config.base.max_images
    epochs = config.base.max_images / dataset.split_sizes["train"]

    def show(text: str) -> None:
        if text:
            logger.info(text)
        line.update(config.trials - searcher.left)

    searcher = JournalSearch(
        config,
        home,
        draw=lambda trial: suggest(config, trial, epochs),
        unfit=lambda params: too_large(config, params, dataset.image_size, room.worker_mb),
        failure=lambda number: failure_of(trial_url(home.store.url, number)),
        show=show,
        first=base_point(config) if config.sampler == "tpe" else None,
    )
    trainable = tune.with_parameters(run_trial, tune_config=config, search_url=home.store.url)
    try:
        for _ in range(ROUNDS_MAX):
            if not searcher.left:
                return
            with tempfile.TemporaryDirectory(prefix="irae-tune-") as folder:
                tune.Tuner(
                    tune.with_resources(trainable, room.resources),
                    tune_config=tune.TuneConfig(
                        search_alg=searcher,
                        scheduler=JournalASHA(config, searcher.study) if config.asha else None,
                        num_samples=-1,
                        max_concurrent_trials=room.concurrent,
                    ),
                    run_config=tune.RunConfig(name="search", storage_path=folder, verbose=0),
                ).fit()
    finally:
        searcher.stop()
    assert not searcher.left, "Ray Tune ended before the search"


def room_for(config: TuneConfig, nodes: list[dict[str, float]], gpu_mb: float | None) -> Room:
    """What nodes with these resources can hold; `gpu_mb`: memory of a GPU. ValueError when less than was asked for."""
    if config.workers > 1:
        # Its workers take the processors of whole nodes, so that their driver may take none.
        capacity, on_a_node = len(nodes) // config.base.nodes, config.base.workers_per_node or 1
        resources, gpus = {"CPU": 0.0, "memory": 2.0**20}, 1.0 if gpu_mb else 0.0
    else:
        gpus = (1.0 if gpu_mb else 0.0) if config.gpus_per_trial is None else config.gpus_per_trial
        places = [min(_fit(n, "CPU", config.cpus_per_trial), _fit(n, "GPU", gpus)) for n in nodes]
        capacity, on_a_node = sum(places), max(places)
        resources = {"CPU": float(config.cpus_per_trial), "GPU": gpus}
    concurrent = config.concurrent or min(capacity, config.trials)
    if not 0 < concurrent <= capacity:
        raise UserError(
            f"{max(concurrent, 1)} trials at once were asked for (--concurrent), but the cluster holds {capacity} of "
            f"{config.workers} worker(s) with {config.cpus_per_trial} processor(s) and {gpus:g} GPU(s); ask for fewer, "
            "or for smaller trials."
        )
    on_a_node = min(on_a_node, concurrent * config.workers)
    memory_mb = min(node["memory"] for node in nodes) / 1e6 / on_a_node
    if gpus and gpu_mb:
        memory_mb = gpu_mb * min(gpus, 1.0)
    return Room(concurrent, resources, MEMORY_SHARE * (config.memory_gb * 1e3 if config.memory_gb else memory_mb))


def _fit(node: dict[str, float], resource: str, each: float) -> int:
    return int(node.get(resource, 0) / each) if each else 10**6


def gpu_memory_mb() -> float:
    """Memory of this worker's GPU."""
    import torch

    return torch.cuda.get_device_properties(0).total_memory / 1e6


def too_large(config: TuneConfig, params: dict[str, Any], image_size: int, limit_mb: float) -> str | None:
    """Why a trial cannot fit into a worker's memory, or None if it does."""
    trial = trial_config(config, params, 0, config.base.out or "")
    needed_mb = predicted_mb(trial, parameter_count(build(trial.system, trial.model)), image_size)
    if needed_mb <= limit_mb:
        return None
    return f"needs about {needed_mb:,.0f} MB a worker, but has {limit_mb:,.0f}"
