"""An exponential moving average of a model's weights: smoother than the last step's, at no cost to training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def running_statistics(model: nn.Module) -> dict[str, Tensor]:
    """What batch normalisation keeps of the batches that it has seen, by name; empty for a model without it."""
    names = (
        f"{name}.{buffer}"
        for name, layer in model.named_modules()
        if isinstance(layer, nn.BatchNorm2d)
        for buffer in ("running_mean", "running_var")
    )
    buffers = dict(model.named_buffers())
    return {name: buffers[name] for name in names}


class EMA:
    """Average of the parameters over about the last `horizon_images` images; over all, as long as there were fewer.

    `relative_width` instead: over about this share of the images so far, for runs of which nobody knows how many images
    they will see (as in Karras et al. 2024, arXiv 2312.02696, whose profile is a power of the run's length). Running
    statistics of batch normalisation are averaged with them: those of one moment would not fit.
    """

    def __init__(self, model: nn.Module, horizon_images: float, relative_width: float = 0.0) -> None:
        self.horizon_images, self.relative_width = horizon_images, relative_width
        self._weights = {**dict(model.named_parameters()), **running_statistics(model)}
        self._average = {name: weight.detach().clone() for name, weight in self._weights.items()}

    @torch.no_grad()
    def update(self, batch_images: int, images_seen: int) -> None:
        """Take in the weights after a step; `images_seen` counts the whole run with this step."""
        horizon_images = self.horizon_images or self.relative_width * images_seen
        share = -math.expm1(-batch_images / horizon_images)
        share = max(share, batch_images / images_seen)
        torch._foreach_lerp_(list(self._average.values()), list(self._weights.values()), share)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the model has the average as its weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def load(self, average: Mapping[str, Tensor]) -> None:
        """Go on from saved averages, by their names."""
        for name, tensor in self._average.items():
            tensor.copy_(average[name])

    @torch.no_grad()
    def _swap(self) -> None:
        for name, weight in self._weights.items():
            held = weight.clone()
            weight.copy_(self._average[name])
            self._average[name].copy_(held)
