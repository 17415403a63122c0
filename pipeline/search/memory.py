"""What a trial will take of the memory, before it starts."""

from __future__ import annotations

from irae.config import IRAEConfig
from pipeline.config import TrainConfig

BASE_MB = 850.0
"""A worker with its libraries and readers, before the model."""
FLOATS_PER_WIDTH, FLOATS_PER_CHANNEL = 5.0, 6.0
"""Activations that a flow step keeps, for each pixel of its level: for each hidden channel, for each channel."""
COPIES = 6
"""Of the weights: themselves, gradients, Adam's two, two more while a checkpoint is written."""
REVERSIBLE_STEPS = 3
"""With `reversible`, so many steps' activations are kept, whatever K is."""


def predicted_mb(config: TrainConfig, parameters: int, image_size: int) -> float:
    """Peak memory of one worker, MB. Measured to be 0 to 30 % high: see docs/tune.md."""
    workers = config.nodes * (config.workers_per_node or 1)
    share = -(-config.global_batch // workers)
    images = min(share, config.micro_batch or share)
    side = config.crop or image_size
    steps = REVERSIBLE_STEPS if config.reversible else config.model.K
    floats = images * side**2 * steps * floats_per_pixel(config.model)
    return BASE_MB + 4 * (floats + COPIES * parameters) / 1e6


def floats_per_pixel(model: IRAEConfig) -> float:
    """Activations of one step in every level of encoder and decoder, for each pixel of the image.

    Level l has a 4^l-th of the pixels and 4^l times the channels.
    """
    hidden = sum(FLOATS_PER_WIDTH * model.width / 4**level for level in range(1, model.L + 1))
    return hidden + FLOATS_PER_CHANNEL * model.channels * model.L
