"""An exponential moving average of a model's weights: smoother than the last step's, at no cost to training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Average of the parameters over about the last `horizon_images` images; over all, as long as there were fewer."""

    def __init__(self, model: nn.Module, horizon_images: float) -> None:
        self.horizon_images = horizon_images
        self._weights = dict(model.named_parameters())
        self._average = {name: weight.detach().clone() for name, weight in self._weights.items()}

    @torch.no_grad()
    def update(self, batch_images: int, images_seen: int) -> None:
        """Take in the weights after a step; `images_seen` counts the whole run with this step."""
        share = -math.expm1(-batch_images / self.horizon_images)
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
        """Go on from saved averages, by the parameters' names."""
        for name, tensor in self._average.items():
            tensor.copy_(average[name])

    @torch.no_grad()
    def _swap(self) -> None:
        for name, weight in self._weights.items():
            held = weight.clone()
            weight.copy_(self._average[name])
            self._average[name].copy_(held)
