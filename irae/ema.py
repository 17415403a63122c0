"""Exponential moving average (EMA) of a model's weights: smoother than the last step's, at no cost to training."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def running_statistics(model: nn.Module) -> dict[str, Tensor]:
    """Running means and variances of all batch normalisations, by name; empty for a model without any."""
    return {
        f"{name}.{buffer}": getattr(layer, buffer)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.BatchNorm2d)
        for buffer in ("running_mean", "running_var")
    }


class EMA:
    """Average of the parameters over about the last `horizon_images` images; an even one of all while there are fewer.

    `relative_width`: the horizon as a fraction of the images so far instead, for runs of unknown length (Karras et al.
    2024, arXiv 2312.02696, whose profile is a power of the run's length). Running statistics of batch normalisation are
    averaged too, since those of a single step would not fit the averaged weights.
    """

    def __init__(self, model: nn.Module, horizon_images: float, relative_width: float = 0.0) -> None:
        self.horizon_images, self.relative_width = horizon_images, relative_width
        self.model, self.averaged = model, AveragedModel(model, use_buffers=True)
        self.averaged.n_averaged.fill_(1)  # the weights at the start count: a checkpoint's averages when resuming

    def update(self, batch_images: int, images_seen: int) -> None:
        """Include the weights after a step; `images_seen`: images of the whole run, this step's included."""
        horizon_images = self.horizon_images or self.relative_width * images_seen
        share = max(-math.expm1(-batch_images / horizon_images), batch_images / images_seen)
        self.averaged.multi_avg_fn = get_ema_multi_avg_fn(1 - share)
        self.averaged.update_parameters(self.model)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The average as the model's weights inside the context."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for weight, average in zip(*map(_averaged_tensors, (self.model, self.averaged.module)), strict=True):
            held = weight.clone()
            weight.copy_(average)
            average.copy_(held)


def _averaged_tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *running_statistics(model).values()]
