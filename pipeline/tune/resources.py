"""Trials that fit into a cluster at once, and trials that do not fit into a worker's memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from infra.storage import UserError
from irae.model import parameter_count
from irae.registry import build
from irae.restorer import activation_elements_per_pixel
from pipeline.config.train import ModelConfig, TrainConfig
from pipeline.tune.config import TuneConfig
from pipeline.tune.space import trial_config

MEMORY_SHARE = 0.9
"""Largest share of a worker's memory that a trial may be predicted to take."""
BASE_MB = 850.0
"""Memory of a worker with its libraries and readers, without the model."""
FLOATS_PER_WIDTH, FLOATS_PER_CHANNEL = 5.0, 6.0
"""Activations that a flow step keeps for each pixel of its level: per hidden channel, per channel."""
COPIES = 6
"""Tensors of the weights' size: weights, gradients, Adam's two moments, two copies while a checkpoint is written."""
WORKING = 6
"""Working memory of convolutions in models other than IRAE, in units of the largest activation."""
REVERSIBLE_STEPS = 3
"""Flow steps whose activations are kept at a time with `reversible`, whatever K is."""


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
    cluster = config.base.cluster
    if cluster.workers > 1:
        # The workers take the processors of whole nodes, so that the process that Ray Tune starts may take none.
        capacity, on_a_node = len(nodes) // cluster.nodes, cluster.workers_per_node or 1
        resources, gpus = {"CPU": 0.0, "memory": 2.0**20}, 1.0 if gpu_mb else 0.0
    else:
        gpus = (1.0 if gpu_mb else 0.0) if config.gpus_per_trial is None else config.gpus_per_trial
        resources = {"CPU": float(config.cpus_per_trial), "GPU": gpus}
        wanted = {name: count for name, count in resources.items() if count}
        fitting = [min(int(node.get(name, 0) / count) for name, count in wanted.items()) for node in nodes]
        capacity, on_a_node = sum(fitting), max(fitting)
    concurrent = config.concurrent or min(capacity, config.trials)
    if not 0 < concurrent <= capacity:
        raise UserError(
            f"{max(concurrent, 1)} trials at once were asked for (--concurrent), but the cluster holds {capacity} of "
            f"{cluster.workers} worker(s) with {config.cpus_per_trial} processor(s) and {gpus:g} GPU(s); ask for "
            "fewer, or for smaller trials."
        )
    if config.memory_gb:
        memory_mb = config.memory_gb * 1e3
    elif gpus and gpu_mb:
        memory_mb = gpu_mb * min(gpus, 1.0)
    else:
        memory_mb = min(node["memory"] for node in nodes) / 1e6 / min(on_a_node, concurrent * cluster.workers)
    return ResourcePlan(concurrent, resources, MEMORY_SHARE * memory_mb)


def gpu_memory_mb() -> float:
    """Memory of this worker's GPU."""
    return torch.cuda.get_device_properties(0).total_memory / 1e6


def exceeds_memory(config: TuneConfig, image_size: int, limit_mb: float, params: dict[str, Any]) -> str | None:
    """Why a trial with these hyperparameters does not fit into a worker's memory, or None if it does."""
    trial = trial_config(config, params, 0, config.base.out or "")
    needed_mb = predicted_mb(trial, parameter_count(build(trial.model.name, trial.model.irae)), image_size)
    return None if needed_mb <= limit_mb else f"needs about {needed_mb:,.0f} MB a worker, but has {limit_mb:,.0f}"


def predicted_mb(config: TrainConfig, parameters: int, image_size: int) -> float:
    """Peak memory of one worker, MB: 0 to 30 % above the measured peak for IRAE (docs/how-to/tune.md)."""
    share = -(-config.optimization.global_batch_size // config.cluster.workers)
    images = min(share, config.optimization.micro_batch_size or share)
    floats = images * (config.data.crop or image_size) ** 2 * floats_per_pixel(config.model)
    return BASE_MB + 4 * (floats + COPIES * parameters) / 1e6


def floats_per_pixel(model: ModelConfig) -> float:
    """Activations per pixel of the image that a model keeps for the backward pass.

    Of IRAE: those of one flow step in every level l, which has a 4^l-th of the pixels and 4^l times the channels, times
    the steps that are kept at a time.
    """
    if model.name != "irae":
        with torch.device("meta"):
            elements = activation_elements_per_pixel(build(model.name, model.irae))
        return sum(elements) + WORKING * max(elements)
    irae = model.irae
    hidden = sum(FLOATS_PER_WIDTH * irae.width / 4**level for level in range(1, irae.L + 1))
    steps = REVERSIBLE_STEPS if model.reversible else irae.K
    return steps * (hidden + FLOATS_PER_CHANNEL * irae.channels * irae.L)
