"""What a trial will take of the memory, before it starts."""

from __future__ import annotations

import torch

from irae.config import IRAEConfig
from irae.registry import build
from irae.restorer import activation_elements_per_pixel
from pipeline.config.train import TrainConfig

BASE_MB = 850.0
"""A worker with its libraries and readers, before the model."""
FLOATS_PER_WIDTH, FLOATS_PER_CHANNEL = 5.0, 6.0
"""Activations that a flow step keeps, for each pixel of its level: for each hidden channel, for each channel."""
COPIES = 6
"""Of the weights: themselves, gradients, Adam's two, two more while a checkpoint is written."""
WORKING = 6
"""Of the largest activation of another system, besides the activations themselves: what convolutions work with."""
REVERSIBLE_STEPS = 3
"""With `reversible`, so many steps' activations are kept, whatever K is."""


def predicted_mb(config: TrainConfig, parameters: int, image_size: int) -> float:
    """Peak memory of one worker, MB. Measured to be high, by 0 to 30 % for IRAE: see docs/how-to/tune.md."""
    workers = config.nodes * (config.workers_per_node or 1)
    share = -(-config.global_batch_size // workers)
    images = min(share, config.micro_batch_size or share)
    side = config.crop or image_size
    floats = images * side**2 * (irae_floats_per_pixel(config) if config.system == "irae" else layer_floats(config))
    return BASE_MB + 4 * (floats + COPIES * parameters) / 1e6


def layer_floats(config: TrainConfig) -> float:
    """Activations of all layers of a system that is none of IRAE, for each pixel of the image."""
    with torch.device("meta"):
        numbers = activation_elements_per_pixel(build(config.system, config.model))
    return sum(numbers) + WORKING * max(numbers)


def irae_floats_per_pixel(config: TrainConfig) -> float:
    """Activations that IRAE keeps, for each pixel of the image."""
    return (REVERSIBLE_STEPS if config.reversible else config.model.K) * step_floats(config.model)


def step_floats(model: IRAEConfig) -> float:
    """Those of one step in every level of encoder and decoder.

    Level l has a 4^l-th of the pixels and 4^l times the channels.
    """
    hidden = sum(FLOATS_PER_WIDTH * model.width / 4**level for level in range(1, model.L + 1))
    return hidden + FLOATS_PER_CHANNEL * model.channels * model.L
