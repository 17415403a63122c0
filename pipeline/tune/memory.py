"""Predicted peak memory of a trial, before it starts."""

from __future__ import annotations

import torch

from irae.config import IRAEConfig
from irae.registry import build
from irae.restorer import activation_elements_per_pixel
from pipeline.config.train import TrainConfig

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


def predicted_mb(config: TrainConfig, parameters: int, image_size: int) -> float:
    """Peak memory of one worker, MB: 0 to 30 % above the measured peak for IRAE (docs/tune.md)."""
    workers = config.nodes * (config.workers_per_node or 1)
    share = -(-config.global_batch_size // workers)
    images = min(share, config.micro_batch_size or share)
    side = config.crop or image_size
    floats = images * side**2 * (irae_floats_per_pixel(config) if config.system == "irae" else layer_floats(config))
    return BASE_MB + 4 * (floats + COPIES * parameters) / 1e6


def layer_floats(config: TrainConfig) -> float:
    """Activations per pixel of the image, over all layers of a model other than IRAE."""
    with torch.device("meta"):
        elements = activation_elements_per_pixel(build(config.system, config.model))
    return sum(elements) + WORKING * max(elements)


def irae_floats_per_pixel(config: TrainConfig) -> float:
    """Activations per pixel of the image that IRAE keeps."""
    return (REVERSIBLE_STEPS if config.reversible else config.model.K) * step_floats(config.model)


def step_floats(model: IRAEConfig) -> float:
    """Activations per pixel of the image that one step in every level of encoder and decoder keeps.

    Level l has a 4^l-th of the pixels and 4^l times the channels.
    """
    hidden = sum(FLOATS_PER_WIDTH * model.width / 4**level for level in range(1, model.L + 1))
    return hidden + FLOATS_PER_CHANNEL * model.channels * model.L
