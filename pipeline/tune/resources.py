"""Trials that fit into a cluster at once, and trials that do not fit into a worker's memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from infra.storage import UserError
from irae.model import parameter_count
from irae.registry import build
from pipeline.tune.config import TuneConfig
from pipeline.tune.memory import predicted_mb
from pipeline.tune.space import trial_config

MEMORY_SHARE = 0.9
"""Largest share of a worker's memory that a trial may be predicted to take."""


@dataclass(frozen=True)
class ResourcePlan:
    """Resources of the cluster, divided among trials."""

    concurrent: int
    resources: dict[str, float]
    """Resources of the process that Ray Tune starts for a trial."""
    worker_mb: float
    """Memory limit of one worker."""


def plan_resources(config: TuneConfig, nodes: list[dict[str, float]], gpu_mb: float | None) -> ResourcePlan:
    """Divide nodes with these Ray resources; `gpu_mb`: memory of a GPU. Raises UserError when too few trials fit."""
    if config.workers > 1:
        # The workers take the processors of whole nodes, so that the process that Ray Tune starts may take none.
        capacity, on_a_node = len(nodes) // config.base.cluster.nodes, config.base.cluster.workers_per_node or 1
        resources, gpus = {"CPU": 0.0, "memory": 2.0**20}, 1.0 if gpu_mb else 0.0
    else:
        gpus = (1.0 if gpu_mb else 0.0) if config.gpus_per_trial is None else config.gpus_per_trial
        fitting = [min(_fit(node, "CPU", config.cpus_per_trial), _fit(node, "GPU", gpus)) for node in nodes]
        capacity, on_a_node = sum(fitting), max(fitting)
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
    if config.memory_gb:
        memory_mb = config.memory_gb * 1e3
    return ResourcePlan(concurrent, resources, MEMORY_SHARE * memory_mb)


def _fit(node: dict[str, float], resource: str, each: float) -> int:
    """How many shares of this size the node has of the resource."""
    return int(node.get(resource, 0) / each) if each else 10**6


def gpu_memory_mb() -> float:
    """Memory of this worker's GPU."""
    return torch.cuda.get_device_properties(0).total_memory / 1e6


def exceeds_memory(config: TuneConfig, image_size: int, limit_mb: float, params: dict[str, Any]) -> str | None:
    """Why a trial with these hyperparameters does not fit into a worker's memory, or None if it does."""
    trial = trial_config(config, params, 0, config.base.out or "")
    needed_mb = predicted_mb(trial, parameter_count(build(trial.model.name, trial.model.irae)), image_size)
    return None if needed_mb <= limit_mb else f"needs about {needed_mb:,.0f} MB a worker, but has {limit_mb:,.0f}"
