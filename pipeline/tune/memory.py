"""Predicted peak memory of a trial, before it starts."""

from __future__ import annotations

import torch

from irae.config import IRAEConfig
from irae.registry import build
from irae.restorer import activation_elements_per_pixel
from pipeline.config.train import ModelConfig, TrainConfig

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
    """Peak memory of one worker, MB: 0 to 30 % above the measured peak for IRAE (docs/how-to/tune.md)."""
    share = -(-config.optimization.global_batch_size // config.cluster.workers)
    images = min(share, config.optimization.micro_batch_size or share)
    side = config.data.crop or image_size
    per_pixel = irae_floats_per_pixel(config.model) if config.model.name == "irae" else layer_floats(config.model)
    floats = images * side**2 * per_pixel
    return BASE_MB + 4 * (floats + COPIES * parameters) / 1e6


def layer_floats(model: ModelConfig) -> float:
    """Activations per pixel of the image, over all layers of a model other than IRAE."""
    with torch.device("meta"):
        elements = activation_elements_per_pixel(build(model.name, model.irae))
    return sum(elements) + WORKING * max(elements)


def irae_floats_per_pixel(model: ModelConfig) -> float:
    """Activations per pixel of the image that IRAE keeps."""
    return (REVERSIBLE_STEPS if model.reversible else model.irae.K) * step_floats(model.irae)


def step_floats(model: IRAEConfig) -> float:
    """Activations per pixel of the image that one step in every level of encoder and decoder keeps.

    Level l has a 4^l-th of the pixels and 4^l times the channels.
    """
    hidden = sum(FLOATS_PER_WIDTH * model.width / 4**level for level in range(1, model.L + 1))
    return hidden + FLOATS_PER_CHANNEL * model.channels * model.L
